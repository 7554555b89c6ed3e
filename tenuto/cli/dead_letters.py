"""``tenuto dead-letters``: what was refused, and why."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator

import click
import orjson

from tenuto.cli.context import Context, InputError, NoServerError


@click.command()
@click.option("--reason", help="only these, such as late or field")
@click.option("--topic", help="only those refused from this topic")
@click.option(
    "--limit", type=click.IntRange(min=0), default=10, show_default=True, help="latest ones listed"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@click.option(
    "--raw", metavar="ORIGIN", help="write the untouched bytes of TOPIC/PARTITION/OFFSET to stdout"
)
@click.pass_obj
def command(
    context: Context,
    reason: str | None,
    topic: str | None,
    limit: int,
    as_json: bool,
    raw: str | None,
) -> None:
    """Count refused records by reason, and list the latest; each origin counts once."""
    from kafka.errors import KafkaError

    from tenuto.inspection.text import moment, table
    from tenuto.streams.dead_letters import DeadLetter, read
    from tenuto.streams.refusals import Reason

    known = [each.value for each in Reason]
    if reason is not None and reason not in known:
        raise InputError(f"--reason {reason}: must be one of {', '.join(known)}")
    with context.topics():
        pass
    settings, names = context.settings, context.names

    def letters() -> Iterator[DeadLetter]:
        try:
            yield from read(settings.kafka.kafka_python(), names.dead_letters)
        except LookupError as error:
            raise InputError(str(error.args[0])) from error
        except (KafkaError, TimeoutError) as error:
            raise NoServerError(f"kafka at {settings.kafka.bootstrap}: {error}") from error

    def origin(dead: DeadLetter) -> str:
        return f"{dead.topic}/{dead.partition}/{dead.offset}"

    if raw is not None:
        found = next((dead for dead in letters() if origin(dead) == raw), None)
        if found is None:
            raise InputError(f"--raw {raw}: there is no such origin in {names.dead_letters}")
        if found.truncated_from_bytes is not None:
            whole = found.truncated_from_bytes
            click.echo(f"the first {len(found.value)} of {whole} bytes", err=True)
        sys.stdout.buffer.write(found.value)
        sys.stdout.buffer.flush()
        return

    wanted_topics = None if topic is None else {topic, names.of(topic)}
    counts: Counter[tuple[str, str]] = Counter()
    latest: deque[DeadLetter] = deque(maxlen=limit)
    for dead in letters():
        if reason is not None and dead.reason != reason:
            continue
        if wanted_topics is not None and dead.topic not in wanted_topics:
            continue
        counts[dead.topic, dead.reason] += 1
        latest.append(dead)
    if as_json:
        shown = {
            "total": counts.total(),
            "counts": [
                {"topic": t, "reason": r, "count": n} for (t, r), n in sorted(counts.items())
            ],
            "latest": [
                {
                    "origin": origin(dead),
                    "reason": dead.reason,
                    "text": dead.text,
                    "timestamp_ms": dead.timestamp_ms,
                    "bytes": dead.truncated_from_bytes or len(dead.value),
                }
                for dead in latest
            ],
        }
        click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
        return
    if not counts:
        click.echo(f"no such dead letters in {names.dead_letters}")
        return
    rows = [(t, r, n) for (t, r), n in sorted(counts.items())]
    lines = table(("topic", "reason", "records"), [*rows, ("all", "", counts.total())], indent=0)
    if latest:
        lines += ["", f"the latest {len(latest)}"]
        lines += table(
            ("refused record", "stamped", "why"),
            [(origin(dead), moment(dead.timestamp_ms), dead.text) for dead in latest],
        )
    click.echo("\n".join(lines))
