"""A set of features as columns: the schema, the context it takes, and the layout it needs.

A schema is an ordered list of (column, hash of its definition). A model names the columns that it
needs and takes them by name; only an absent or redefined column is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tenuto.features.feature import Context, Feature
from tenuto.features.layout import Layout
from tenuto.features.rules import TimeRules


class DeclarationError(ValueError):
    """A declaration that cannot work: names what is wrong, and what would be right."""


@dataclass(frozen=True)
class Column:
    """A column's name and the hash of its definition (16 hex digits)."""

    name: str
    hash: str


@dataclass(frozen=True)
class FeatureSet:
    """Declared features, checked, with everything that follows from them.

    Attributes:
        features: in column order.
        layout: what is stored for them.
        columns: the schema.
        contexts: context values that a read may supply, by name.
    """

    features: tuple[Feature, ...]
    layout: Layout
    columns: tuple[Column, ...] = field(init=False)
    contexts: dict[str, Context] = field(init=False)

    @classmethod
    def of(cls, features: Iterable[Feature | Sequence[Feature]], rules: TimeRules) -> FeatureSet:
        """Flatten and check declared features.

        Raises:
            DeclarationError: two columns of one name, or context declared in two ways.
        """
        flat: list[Feature] = []
        for entry in features:
            flat += [entry] if isinstance(entry, Feature) else entry
        names = [feature.name for feature in flat]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise DeclarationError(f"features: two columns are named {', '.join(doubled)}")
        try:
            layout = Layout.of((need for feature in flat for need in feature.needs), rules)
        except ValueError as error:
            raise DeclarationError(f"features: {error}") from error
        return cls(tuple(flat), layout)

    def __post_init__(self) -> None:
        contexts: dict[str, Context] = {}
        for feature in self.features:
            for context in feature.contexts:
                if contexts.setdefault(context.name, context) != context:
                    raise DeclarationError(
                        f"context {context.name!r} is declared both per "
                        f"{contexts[context.name].per} and per {context.per}"
                    )
        for view in self.layout.views:
            for key in set(view.entity.key) - {"item_id", "user_id", "query"}:
                contexts.setdefault(key, Context(key, "item", str))
        object.__setattr__(self, "contexts", contexts)
        columns = tuple(Column(f.name, self._column_hash(f)) for f in self.features)
        object.__setattr__(self, "columns", columns)

    def _column_hash(self, feature: Feature) -> str:
        counter = feature.missing_with
        if counter is None:
            return feature.hash
        # When a value is missing depends on its entity's longest window, which another feature
        # may lengthen.
        view = self.layout.view(counter.entity)
        longest_ms = view.rings[view.longest].window.length_ms
        return hashlib.sha256(f"{feature.hash}:{longest_ms}".encode()).hexdigest()[:16]

    @property
    def names(self) -> list[str]:
        return [feature.name for feature in self.features]
