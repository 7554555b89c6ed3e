"""How deep a MessagePack value is nested, by its bytes alone.

What a decoder can follow depends on the stack of whoever calls it, and a verdict must not.
"""

from __future__ import annotations

MAX_NESTING = 200

# Sizes of what follows a type's first byte: fixed ones, and the width of a length that is given.
_FIXED = {
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
_LENGTH = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSION = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_ARRAY = {0xDC: 2, 0xDD: 4}
_MAP = {0xDE: 2, 0xDF: 4}


def is_nested_too_deep(value: bytes) -> bool:
    """Whether the first value in ``value`` is nested deeper than 200; False where it is cut off."""
    at, end = 0, len(value)
    left: list[int] = []
    while at < end:
        kind = value[at]
        at += 1
        inside = 0
        if 0x80 <= kind <= 0x9F:
            inside = (kind & 0x0F) * (2 if kind < 0x90 else 1)
        elif kind in _ARRAY or kind in _MAP:
            width = _ARRAY.get(kind) or _MAP[kind]
            inside = int.from_bytes(value[at : at + width]) * (2 if kind in _MAP else 1)
            at += width
        elif 0xA0 <= kind <= 0xBF:
            at += kind & 0x1F
        elif kind in _LENGTH or kind in _EXTENSION:
            width = _LENGTH.get(kind) or _EXTENSION[kind]
            at += int.from_bytes(value[at : at + width]) + width + (kind in _EXTENSION)
        else:
            at += _FIXED.get(kind, 0)
        if inside:
            left.append(inside)
            if len(left) > MAX_NESTING:
                return True
            continue
        while left and left[-1] == 1:
            left.pop()
        if not left:
            return False
        left[-1] -= 1
    return False
