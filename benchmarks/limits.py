"""What limits the goals that are not reached, and what was tried: told beside the figures."""

from __future__ import annotations

_TWO_CORES = "two cores hold both workers, the broker and Redis, which is busy with one already"
_BATCH = (
    "three matrix products of 512 × 272 × 256 are a quarter of a batch's time on both sides. "
    "Experts and gates as one product gave 4 %, the allocator's thresholds nothing"
)
_CANDIDATES = (
    "two hundred items are 400 keys of 2 kB: the bare MGET of these bytes is a third of the read; "
    "adding their tiles up in NumPy and forming 28 columns is the rest. Forming columns of a kind "
    "together and adding up as float64 products took decoding from 1.05 to 0.82 ms; turns "
    "gave sixteen threads twice the reads, and one thread nothing"
)
_BUSY = (
    "events at that rate, their producer and the broker leave no core free: a read waits for its "
    "turn in its own process and in Redis, behind scripts"
)

LIMITS = {
    "item + user views: ≥ 250k events/s": (
        "one process's Python, 2.8 µs an event, beside Redis's 2.1 on two cores that the broker "
        "shares. A chunk sent ahead of the reply gave 20 %, more of them nothing more"
    ),
    "default preset: ≥ 80k events/s": (
        "Redis: four entities an event, 2 µs each; the machine's speed moves by a third in an hour"
    ),
    "two workers ≥ 1.8× one": _TWO_CORES,
    "half load: p99 ≤ 50 ms": (
        "events come as twelve small batches a cycle, one of each topic and partition: few of them "
        "meet in one entity, so that half of the speed of large batches takes most of two cores. "
        "Fetches asked for on demand brought p50 from 600 to 90–160 ms, as neighbours allow"
    ),
    "idle: p99 ≤ 5 ms": (
        "most of it is from the send to the fetch: on the embedded broker, which has no threads to "
        "wake, p99 is 6 ms (no KAFKA_HOME)"
    ),
    "200 candidates at half load: p99 ≤ 3 ms": _BUSY,
    "200 candidates, no ingest: p99 ≤ 1.5 ms": _CANDIDATES,
    "200 candidates: ≤ 2× a bare MGET": (
        f"{_CANDIDATES}. At half load a read, which wants a core for a millisecond, also waits for "
        "the turns of others; the MGET, which wants it for a tenth of that, does not"
    ),
    "200 candidates: ≥ 50× faster than Feast": (
        "Feast gets the same 28 values ready made from one hash for each entity, ours are summed "
        "from 800 kB of tiles at the moment that the request names; and at this load both wait for "
        "a core. The goal was set without having measured it"
    ),
    "≥ 150k impressions/s per worker": (
        "6 µs of one core an impression, of which encoding samples and fetching are the most, "
        "beside a broker that reads and writes as much"
    ),
    "≤ 100 resident bytes per waiting impression": (
        "of some 300 MB, labels are 25 and snapshots 75, and the latter grow no further: beyond 16 "
        "MB a partition they wait in Kafka. The rest is fetched ahead, or the allocator's"
    ),
    "from Kafka ≥ 90 % of in-memory speed": "decoding samples takes the trainer's own core",
    "≥ 3× torch-rechub's MMoE": _BATCH,
}
"""By the beginning of a goal's text."""


def limit_of(goal: str) -> str:
    """What limits a goal; empty where nothing was written down."""
    return next((text for start, text in LIMITS.items() if goal.startswith(start)), "")
