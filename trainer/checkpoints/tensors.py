"""Tensors as safetensors bytes and back, their description, and one hash over all of them.

Arrays are numpy's; torch's are taken where they are on the CPU, so nothing here needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from tenuto.trainer.checkpoints.errors import (
    DTypeMismatchError,
    FormatError,
    ShapeMismatchError,
)

Array = NDArray[Any]


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor's dtype, as numpy names it, and shape."""

    dtype: str
    shape: tuple[int, ...]


class Description(msgspec.Struct, frozen=True):
    """``model.json``: what is in ``model.safetensors`` beside it."""

    tensors: dict[str, TensorInfo]


def arrays_of(tensors: Mapping[str, Any]) -> dict[str, Array]:
    """numpy's view of each tensor, in the order of names."""
    return {name: _array(tensors[name]) for name in sorted(tensors)}


def describe(arrays: Mapping[str, Array]) -> Description:
    """Names, dtypes and shapes."""
    return Description({n: TensorInfo(str(a.dtype), a.shape) for n, a in arrays.items()})


def weights_hash(parts: Mapping[str, Mapping[str, Array]]) -> str:
    """sha256 over part, name, dtype, shape and bytes of every tensor, in the order of names."""
    digest = hashlib.sha256()
    for part in sorted(parts):
        for name, array in sorted(parts[part].items()):
            digest.update(f"{part}/{name} {array.dtype} {list(array.shape)}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def encode_tensors(arrays: Mapping[str, Array]) -> bytes:
    """As a safetensors file; the same arrays give the same bytes."""
    from safetensors.numpy import save

    data: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return data


def decode_tensors(data: bytes, place: str) -> dict[str, Array]:
    """Arrays of a safetensors file, each of its own memory.

    Raises:
        FormatError: not a safetensors file, or of a dtype that numpy does not have.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found: dict[str, Array] = load(data)
    except (SafetensorError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{place}: not safetensors: {error}") from error
    return found


def decode_description(data: bytes, place: str) -> Description:
    """A ``model.json``.

    Raises:
        FormatError: it is none.
    """
    try:
        return msgspec.convert(orjson.loads(data), Description)
    except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
        raise FormatError(f"{place}: does not describe tensors: {error}") from error


def check_tensors(arrays: Mapping[str, Array], described: Description, place: str) -> None:
    """Compare tensors with their description.

    Raises:
        ShapeMismatchError: one has another shape, is missing, or is one too many.
        DTypeMismatchError: one has another dtype.
    """
    for name in sorted(arrays.keys() | described.tensors.keys()):
        array, info = arrays.get(name), described.tensors.get(name)
        if array is None:
            raise ShapeMismatchError(f"{place}: tensor {name}: is missing")
        if info is None:
            raise ShapeMismatchError(f"{place}: tensor {name}: model.json does not name it")
        if str(array.dtype) != info.dtype:
            raise DTypeMismatchError(
                f"{place}: tensor {name}: is {array.dtype}, model.json says {info.dtype}"
            )
        if array.shape != info.shape:
            raise ShapeMismatchError(
                f"{place}: tensor {name}: has shape {list(array.shape)}, model.json says "
                f"{list(info.shape)}"
            )


def _array(tensor: Any) -> Array:
    # A tensor that takes part in gradients does not turn into an array by itself.
    return np.asarray(tensor.detach() if hasattr(tensor, "detach") else tensor)
