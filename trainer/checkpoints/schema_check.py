"""Whether a reader's columns are those that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterable

from tenuto.features.schema import Column
from tenuto.trainer.checkpoints.errors import SchemaMismatchError
from tenuto.trainer.spec import ModelSpec


def check_columns(spec: ModelSpec, columns: Iterable[Column], place: str) -> None:
    """Compare what a ranker takes with what a reader has; more is no harm.

    Raises:
        SchemaMismatchError: columns are absent, or defined otherwise; names them.
    """
    there = {column.name: column.hash for column in columns}
    # What only the position tower learns from is not asked for when scoring.
    needed = [column for column in spec.columns if column.role == "main"]
    absent = [column.name for column in needed if column.name not in there]
    if absent:
        raise SchemaMismatchError(
            f"{place}: takes columns that this application does not have: {', '.join(absent)}"
        )
    for column in needed:
        if there[column.name] != column.hash:
            raise SchemaMismatchError(
                f"{place}: column {column.name!r}: learnt as {column.hash}, defined here as "
                f"{there[column.name]}: train a model on the new definition, or restore the old one"
            )
