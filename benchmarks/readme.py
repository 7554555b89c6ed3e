"""The table of speeds in README.md, from ``benchmarks/results/*.json`` and no more."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.harness import OURS, Result

NEEDED = ("ingest", "read", "join", "samples", "train", "loop")
_BEGIN, _END = "<!-- speeds: python -m benchmarks --render -->\n", "<!-- end of speeds -->\n"


def with_speeds(text: str, results: Mapping[str, Result]) -> str:
    """The README with the table that these results give.

    Raises:
        ValueError: the text has no place for it.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"README.md: no lines {_BEGIN.strip()} and {_END.strip()}")
    return before + begin + _table(results) + end + after


def _table(results: Mapping[str, Result]) -> str:
    def events(side: str) -> str:
        return f"{results['ingest'].figure(side, 'events_per_s'):,.0f}"

    def ms(side: str) -> str:
        return f"{results['read'].figure(f'small, idle, 200 × 1: {side}', 'p50_ms'):.1f}"

    def joined(side: str) -> str:
        return f"{results['join'].figure(side, 'impressions_per_s'):,.0f}"

    def rows(name: str, side: str) -> str:
        return f"{results[name].figure(side, 'rows_per_s'):,.0f}"

    def auc(side: str) -> str:
        return f"{results['train'].figure(side, 'auc_ctr'):.2f}"

    loop = results["loop"]
    borne = loop.figure("borne", "requests_per_s")
    steps = [side for side in loop.sides if side != "borne"]
    step = next(side for side in steps if loop.figure(side, "requests_per_s") == borne)
    bare, kafka = "torch-rechub, bare loop", f"{OURS}, Kafka"
    lines = [
        ("what", "Tenuto", "beside it, same run"),
        (
            "one count of items and users over 5 minutes, readable in Redis, exactly once",
            f"{events(OURS)} events/s",
            f"of items alone: Faust {events('faust')}, Quix {events('quix')}, "
            f"Bytewax {events('bytewax')}, Flink into the same Redis {events('flink-redis')}, "
            f"Flink into nothing {events('flink')}",
        ),
        (
            "the default preset: five entities, 28 columns",
            f"{events('preset small')} events/s",
            "–",
        ),
        (
            "28 features of 200 candidates, p50",
            f"{ms(OURS)} ms",
            f"a bare MGET of the same bytes {ms('MGET')}; `hgetall` of each ready-made "
            f"{ms('HGETALL')}; Feast {ms('Feast')}",
        ),
        (
            "join: final rows with features, labels and delays",
            f"{joined(OURS)} impressions/s",
            f"Quix {joined('quix')}; Flink on both cores, without checkpoints, {joined('flink')}",
        ),
        (
            "samples topic → tensors",
            f"{rows('samples', f'{OURS} → tensors')} rows/s",
            f"JSON lines {rows('samples', 'JSON lines → tensors')}",
        ),
        (
            "training from Kafka, one thread",
            f"{rows('train', kafka)} rows/s, AUC {auc(kafka)}",
            f"torch-rechub {rows('train', 'torch-rechub')}; its model in a bare loop "
            f"{rows('train', bare)}, AUC {auc(bare)}",
        ),
        (
            "everything at once, 50 candidates a request",
            f"{borne:,.0f} requests/s, p50 {loop.figure(step, 'p50_ms'):.1f} ms",
            "–",
        ),
    ]
    table = [f"| {' | '.join(cells)} |\n" for cells in lines]
    return "\n" + table[0] + "|---|--:|---|\n" + "".join(table[1:]) + "\n"
