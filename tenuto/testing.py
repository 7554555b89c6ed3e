"""Checks that every feature must pass, for an application's own tests.

``check_feature`` reads a feature through the real reader, from bytes that it makes up, without a
server; ``check_features`` adds what a set of them must satisfy together. Numbers are judged by the
feature's own test, against counts made by hand.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.features.entities import Counter, Entity
from tenuto.features.feature import Context, Feature, Floats, Read
from tenuto.features.layout import View
from tenuto.features.matrix import CANONICAL_NAN, State
from tenuto.features.reader import Reader, Request
from tenuto.features.rules import TimeRules
from tenuto.features.schema import DeclarationError, FeatureSet
from tenuto.features.sums import Ints
from tenuto.features.windows import Window

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NOW_MS = 1_700_000_123_456
_ITEMS = [f"item-{i}" for i in range(7)]
_NAN_BITS = int(CANONICAL_NAN.view(np.uint32))

Stored = Callable[[View, bytes], bytes | None]
"""The string that a made-up store holds under an entity's key."""


def check_feature(feature: Feature) -> None:
    """Check one feature: its name, its definition, what it needs, and how its values behave.

    Example:
        >>> from tenuto.presets import video
        >>> check_feature(video.small[0])

    Raises:
        AssertionError: a rule that it breaks, by the feature's name.
    """
    _check_name(feature)
    _check_definition(feature)
    _check_needs(feature)
    _check_values(feature)


def check_features(features: Iterable[Feature]) -> None:
    """Check each feature, and that they make one schema in which a hash means one definition.

    Raises:
        AssertionError: a rule that one of them breaks, or that they break together.
    """
    features = list(features)
    for feature in features:
        check_feature(feature)
    try:
        FeatureSet.of(features, TimeRules())
    except DeclarationError as error:
        raise AssertionError(str(error)) from error
    by_definition = {_json(f): f.hash for f in features}
    assert len(set(by_definition.values())) == len(by_definition), (
        "features: two different definitions have one hash"
    )


def _check_name(feature: Feature) -> None:
    rule = "a column's name is at most 128 letters, digits and _, not beginning with a digit"
    assert isinstance(feature.name, str), f"{feature.name!r}: {rule}"
    assert _NAME.fullmatch(feature.name), f"{feature.name!r}: {rule}"
    limit = feature.fresh_within_ms
    assert isinstance(limit, int), f"{feature.name}: fresh_within_ms: {limit!r}: must be an int"
    assert limit >= 0, f"{feature.name}: fresh_within_ms: {limit}: must be >= 0"


def _check_definition(feature: Feature) -> None:
    name, definition, text = feature.name, feature.definition, _json(feature)
    assert json.loads(text) == definition, (
        f"{name}: definition: must be plain JSON values (lists, not tuples; string keys)"
    )
    assert isinstance(definition.get("kind"), str), (
        f"{name}: definition: must have a 'kind' that names the formula"
    )
    assert re.fullmatch(r"[0-9a-f]{16}", feature.hash), f"{name}: hash: must be 16 hex digits"
    with np.printoptions(precision=1, suppress=True, legacy="1.13"):
        assert _json(feature) == text, f"{name}: definition: must not depend on how numbers print"
    twin = copy.copy(feature)
    assert twin.hash == feature.hash, f"{name}: hash: equal features must have equal hashes"
    if _set(twin, "name", f"{name}_renamed"):
        assert _json(twin) == text, f"{name}: definition: must not contain the column's name"
    if _set(twin, "fresh_within_ms", feature.fresh_within_ms + 1):
        assert _json(twin) == text, f"{name}: definition: must not contain the freshness limit"
    for field, changed in _variants(feature):
        assert changed.hash != feature.hash, (
            f"{name}: definition: is the same for another {field!r}: whatever decides the numbers "
            "belongs in it (declare other fields with compare=False)"
        )


def _json(feature: Feature) -> str:
    try:
        return json.dumps(feature.definition, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{feature.name}: definition: must be JSON: {error}") from error


def _set(feature: Feature, attribute: str, value: Any) -> bool:
    """Set an attribute of a frozen object too; False where it is computed."""
    try:
        object.__setattr__(feature, attribute, value)
    except AttributeError:
        return False
    return True


def _variants(feature: Feature) -> Iterable[tuple[str, Feature]]:
    """The feature with one declared parameter changed, for each that can be."""
    if not dataclasses.is_dataclass(feature):
        return
    for field in dataclasses.fields(feature):
        if field.name in ("name", "fresh_within_ms") or not (field.init and field.compare):
            continue
        other = _other(getattr(feature, field.name))
        if other is None:
            continue
        try:
            changed = dataclasses.replace(feature, **{field.name: other})
        except (TypeError, ValueError):
            # The feature itself refuses such a parameter.
            continue
        yield field.name, changed


def _other(value: Any) -> Any:
    """Another value of the same type; None where there is no telling."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 2 + 1
        case str():
            return f"{value}_other"
        case Window():
            return Window(value.length_ms * 2, value.tile_ms)
        case Counter():
            return value.on(Entity(f"{value.entity.name}_other", value.entity.key))
        case Context():
            return Context(f"{value.name}_other", value.per, value.type)
    return None


def _check_needs(feature: Feature) -> None:
    name = feature.name
    for need in feature.needs:
        counter, window = need
        assert isinstance(counter, Counter), f"{name}: needs: {counter!r}: must be a Counter"
        assert isinstance(window, Window), f"{name}: needs: {window!r}: must be a Window"
    counter_seen = feature.missing_with
    assert counter_seen is None or counter_seen.entity in {c.entity for c, _ in feature.needs}, (
        f"{name}: missing_with: must be on an entity that it needs"
    )
    for context in feature.contexts:
        assert isinstance(context, Context), f"{name}: contexts: {context!r}: must be a Context"
        assert context.per in ("item", "request"), f"{name}: context {context.name!r}: per"


def _check_values(feature: Feature) -> None:
    trial = _Trial(feature)
    counted = feature.missing_with is not None
    for given in (True, False):
        for stored in (_absent, _zeros, _idle):
            bits, states = trial.read(_ITEMS, stored, given)
            if counted:
                assert (bits == _NAN_BITS).all(), (
                    f"{feature.name}: an entity that was never seen must give a missing value"
                )
                assert (states >= State.MISSING).all(), (
                    f"{feature.name}: missing, but not its state"
                )
        for stored in (_busy, _full):
            trial.check_items(stored, given)


class _Trial:
    """One feature behind a real reader, over a made-up store."""

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        self.watched = _Watched(feature)
        self.set = FeatureSet.of([self.watched], TimeRules())
        self.reader = Reader(self.set, 1)

    def read(
        self, items: Sequence[str], stored: Stored, given: bool
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Bits of the values and their states, ``(items,)`` each."""
        request = Request("request", "user", "query", _NOW_MS)
        context = {c.name: _given(c, items) for c in self.set.contexts.values()} if given else {}
        context = self.reader.context(context, len(items))
        plan = self.reader.plan(request, items, context)
        values: list[bytes | None] = [None] * len(plan.keys)
        for view, places in plan.spans:
            for at in places:
                if at is not None:
                    values[at] = stored(view, plan.keys[at])
        self.watched.items = len(items)
        matrix = self.reader.decode(request, items, context, _NOW_MS, plan, values)
        bits = np.ascontiguousarray(matrix.values[:, 0]).view(np.uint32)
        nan = np.isnan(matrix.values[:, 0])
        assert (bits[nan] == _NAN_BITS).all(), f"{self.feature.name}: a NaN of another kind"
        return bits, matrix.states[:, 0]

    def check_items(self, stored: Stored, given: bool) -> None:
        """An item's value follows from the item: not from when, with whom or where it is read."""
        name = self.feature.name
        alone = {item: int(self.read([item], stored, given)[0][0]) for item in _ITEMS}
        again = [_ITEMS[0], *_ITEMS, _ITEMS[0]]
        for items in ([], _ITEMS, _ITEMS[::-1], _ITEMS[3:] + _ITEMS[:3], _ITEMS[::2], again):
            bits, _ = self.read(items, stored, given)
            assert bits.tolist() == [alone[item] for item in items], (
                f"{name}: an item's value depends on the other candidates or on their order"
            )


class _Watched(Feature):
    """The feature under test; what it asks for and what it returns is looked at."""

    def __init__(self, feature: Feature) -> None:
        self.feature, self.items = feature, 0
        self.name, self.fresh_within_ms = feature.name, feature.fresh_within_ms

    @property
    def needs(self) -> list[tuple[Counter, Window]]:
        return self.feature.needs

    @property
    def contexts(self) -> list[Context]:
        return self.feature.contexts

    @property
    def missing_with(self) -> Counter | None:
        return self.feature.missing_with

    @property
    def definition(self) -> dict[str, Any]:
        return self.feature.definition

    def values(self, read: Read) -> Floats:
        name, n = self.name, self.items
        try:
            with np.errstate(divide="raise", invalid="raise", over="raise"):
                values = self.feature.values(_Asked(read, self.feature))
        except FloatingPointError as error:
            raise AssertionError(f"{name}: values: {error}: guard it with np.where") from error
        assert isinstance(values, np.ndarray), f"{name}: values: must be a NumPy array"
        assert values.dtype == np.float64, f"{name}: values: {values.dtype}: must be float64"
        assert values.shape in ((n,), (1,)), f"{name}: values: {values.shape}: must be ({n},)"
        assert not np.isinf(values).any(), f"{name}: values: infinite: must be finite or NaN"
        return values


class _Asked:
    """A read that answers only what the feature has declared, and that it cannot change."""

    def __init__(self, read: Read, feature: Feature) -> None:
        self._read, self._name = read, feature.name
        self._needs = {(c.entity, c.measure, w) for c, w in feature.needs}
        self._contexts = {context.name for context in feature.contexts}
        self.request_ts_ms = read.request_ts_ms

    def total(self, counter: Counter, window: Window) -> Ints:
        self._declared(counter, window)
        return _frozen(self._read.total(counter, window))

    def by_position(self, counter: Counter, window: Window) -> list[Ints]:
        self._declared(counter, window)
        return [_frozen(part) for part in self._read.by_position(counter, window)]

    def first_seen_ms(self, counter: Counter, window: Window) -> Ints:
        self._declared(counter, window)
        return _frozen(self._read.first_seen_ms(counter, window))

    def context(self, name: str) -> Floats | None:
        assert name in self._contexts, f"{self._name}: reads context {name!r}: not in its contexts"
        return self._read.context(name)

    def _declared(self, counter: Counter, window: Window) -> None:
        asked = (counter.entity, counter.measure, window)
        assert asked in self._needs, (
            f"{self._name}: reads {counter.entity.name}.{counter.name} over {window}: "
            "not among its needs"
        )


def _frozen(values: Ints) -> Ints:
    """The same numbers, of which others are formed too: writing to them raises."""
    view = values.view()
    view.flags.writeable = False
    return view


def _given(context: Context, items: Sequence[str]) -> Any:
    def one(of: str) -> Any:
        number = zlib.crc32(f"{context.name} of {of}".encode())
        if context.type is str:
            return f"{context.name}-{number % 3}"
        if number % 4 == 0:
            return None
        return context.type(number % 1_000)

    return [one(item) for item in items] if context.per == "item" else one("request")


def _absent(view: View, key: bytes) -> bytes | None:
    return None


def _zeros(view: View, key: bytes) -> bytes:
    return bytes(view.size)


def _idle(view: View, key: bytes) -> bytes:
    """Tiles that were reached, and are empty."""
    return _entity(view, lambda ring, cell_is_sum: np.zeros(ring, np.int64))


def _busy(view: View, key: bytes) -> bytes | None:
    """Few or many, about as it is; every fourth entity is not there."""
    seed = zlib.crc32(key)
    if seed % 4 == 0 and view.entity.key:
        return None
    rng = np.random.default_rng(seed)

    def cells(length: int, is_sum: bool) -> Ints:
        most = 10**6 if is_sum else 50
        counts: Ints = rng.integers(0, most, length) * (rng.random(length) < 0.3)
        return counts

    return _entity(view, cells)


def _full(view: View, key: bytes) -> bytes:
    """The most that a count holds, and sums far beyond any that occur."""
    return _entity(view, lambda n, is_sum: np.full(n, 2**48 if is_sum else 2**32 - 1))


def _entity(view: View, cells: Callable[[int, bool], Ints]) -> bytes:
    heads = [_NOW_MS // ring.window.tile_ms + 1 for ring in view.rings]
    parts = [np.array(heads, ">u4").tobytes()]
    for ring in view.rings:
        slots = np.zeros(ring.length, ring.dtype)
        for name, cell in zip(ring.cell_names, ring.cells, strict=True):
            slots[name] = cells(ring.length, cell.is_sum)
        parts.append(slots.tobytes())
    return b"".join(parts)
