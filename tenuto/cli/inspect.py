"""``tenuto inspect``: what Redis has of an item or a user, and what became of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson

from tenuto.cli.context import Context, InputError, NoServerError

if TYPE_CHECKING:
    from tenuto.features.client import FeatureClient
    from tenuto.features.layout import View
    from tenuto.features.reader import Reader
    from tenuto.inspection.entities import EntityReport

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Look at the live state of an entity, or at a request's way through the log."""


def _entity_options(function: F) -> F:
    as_of = click.option(
        "--as-of",
        help="moment of the windows, epoch ms or ISO 8601  [default: newest arrival in Redis]",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="one JSON object")
    return as_of(as_json(function))


@command.command()
@click.argument("item_id")
@_entity_options
@click.pass_obj
def item(context: Context, item_id: str, as_of: str | None, as_json: bool) -> None:
    """Windows, sums, derived values, states and ages of an item."""
    _by_key(context, ("item_id",), item_id, as_of, as_json)


@command.command()
@click.argument("user_id")
@_entity_options
@click.pass_obj
def user(context: Context, user_id: str, as_of: str | None, as_json: bool) -> None:
    """Windows, sums, derived values, states and ages of a user."""
    _by_key(context, ("user_id",), user_id, as_of, as_json)


@command.command()
@click.argument("name")
@click.argument("key", nargs=-1)
@_entity_options
@click.pass_obj
def entity(
    context: Context, name: str, key: tuple[str, ...], as_of: str | None, as_json: bool
) -> None:
    """The same of any declared entity, such as: query_item QUERY ITEM, or traffic."""
    from tenuto.inspection.entities import InspectionError, view_by_name

    reader = _reader(context)
    try:
        view = view_by_name(reader, name)
    except InspectionError as error:
        raise InputError(str(error)) from error
    _show(context, reader, [view], key, as_of, as_json)


@command.command()
@click.argument("request_id")
@click.option(
    "--max-records",
    type=click.IntRange(min=1),
    default=1_000_000,
    show_default=True,
    help="how many records of a partition are looked through at most",
)
@click.option(
    "--items", type=click.IntRange(min=0), default=5, show_default=True, help="items to print"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object, with every item")
@click.pass_obj
def request(context: Context, request_id: str, max_records: int, items: int, as_json: bool) -> None:
    """The snapshot, the label events and the sample rows of a request."""
    from kafka.errors import KafkaError

    from tenuto.inspection.entities import InspectionError
    from tenuto.inspection.partition_log import PartitionLog
    from tenuto.inspection.request_search import Searched, find_request
    from tenuto.inspection.request_text import request_json, request_lines
    from tenuto.processes import limits_of
    from tenuto.streams.dead_letters import read

    settings, names = context.settings, context.names
    where = Searched(
        context.platform.events,
        context.platform.samples,
        names,
        limits_of(settings),
        replace(limits_of(settings), max_record_bytes=settings.limits.snapshot_bytes),
    )
    with context.topics():
        pass
    connection = settings.kafka.kafka_python()
    try:
        letters = read(connection, names.dead_letters)
        with PartitionLog(connection, max_records) as log:
            report = find_request(request_id, log, where, letters)
    except (InspectionError, LookupError) as error:
        raise InputError(str(error)) from error
    except (KafkaError, TimeoutError) as error:
        raise NoServerError(f"kafka at {settings.kafka.bootstrap}: {error}") from error
    if as_json:
        _echo_json(request_json(report))
        return
    _echo(request_lines(report, items))


def _by_key(
    context: Context, key: tuple[str, ...], value: str, as_of: str | None, as_json: bool
) -> None:
    from tenuto.inspection.entities import views_by_key

    reader = _reader(context)
    views = views_by_key(reader, key)
    if not views:
        known = ", ".join(view.entity.name for view in reader.layout.views) or "nothing"
        raise InputError(
            f"app {context.settings.app}: counts nothing by {key[0]}: there is {known}"
        )
    _show(context, reader, views, [value], as_of, as_json)


def _show(
    context: Context,
    reader: Reader,
    views: Sequence[View],
    parts: Sequence[str],
    as_of: str | None,
    as_json: bool,
) -> None:
    from tenuto.features.client import FeatureClient
    from tenuto.inspection.entity_text import entity_lines
    from tenuto.inspection.text import moment_ms

    try:
        as_of_ms = None if as_of is None else moment_ms(as_of)
    except ValueError as error:
        raise InputError(f"--as-of {error}") from error
    context.redis()
    settings = context.settings.redis
    client = FeatureClient(settings.url, reader, cluster=settings.cluster, **settings.options())
    reports = [_read(context, reader, client, view, parts, as_of_ms) for view in views]
    found = [report for report in reports if any(view.bytes for view in report.views)]
    if not found:
        keys = ", ".join(view.redis_key for report in reports for view in report.views)
        raise InputError(
            f"{views[0].entity.name} {' '.join(map(repr, parts))}: nothing is counted for it: "
            f"redis at {context.settings.redis.address} has no {keys}"
        )
    first = found[0]
    if as_json:
        views_json = [asdict(view) for report in found for view in report.views]
        _echo_json(asdict(first) | {"views": views_json})
        return
    for report in found[1:]:
        first.views.extend(report.views)
    _echo(entity_lines(first))


def _read(
    context: Context,
    reader: Reader,
    client: FeatureClient,
    view: View,
    parts: Sequence[str],
    as_of_ms: int | None,
) -> EntityReport:
    from tenuto.features.deadline import StoreUnavailableError
    from tenuto.features.sums import AsOfTooOldError
    from tenuto.inspection.entities import InspectionError, plan_of, report_of

    try:
        plan = plan_of(reader, view, parts)
        values = client.fetch(plan, context.settings.redis.socket_timeout_s * 1_000.0)
        return report_of(reader, view, parts, plan, values, as_of_ms)
    except InspectionError as error:
        raise InputError(str(error)) from error
    except AsOfTooOldError as error:
        raise InputError(f"--as-of: {error}: the rings no longer hold that moment") from error
    except StoreUnavailableError as error:
        raise NoServerError(str(error)) from error


def _reader(context: Context) -> Reader:
    from tenuto.features.reader import Reader

    settings = context.settings
    return Reader(
        context.features, settings.kafka.partitions, settings.namespace, settings.redis.buckets
    )


def _echo(lines: Iterable[str]) -> None:
    click.echo("\n".join(lines).rstrip())


def _echo_json(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
