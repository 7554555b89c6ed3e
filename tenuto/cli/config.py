"""``tenuto config``: every setting and where it came from."""

from __future__ import annotations

import click
import orjson

from tenuto.cli.context import Context


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@click.pass_obj
def command(context: Context, as_json: bool) -> None:
    """Show each setting and where it came from; secrets are hidden."""
    values = context.loaded.values()
    if as_json:
        rows = {v.key: {"value": v.value, "origin": v.origin} for v in values}
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    width = max(len(value.key) for value in values)
    for value in values:
        click.echo(f"{value.key:<{width}}  {value.value!r:<40}  {value.origin}")
