"""What can be wrong with a checkpoint, each kind by its own name; every message names the place."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """Of all that follow."""


class MissingFileError(CheckpointError):
    """A version, or a file that its manifest names, is not there."""


class SizeMismatchError(CheckpointError):
    """A file has another size than its manifest says."""


class HashMismatchError(CheckpointError):
    """Bytes have another sha256 than was said of them."""


class ShapeMismatchError(CheckpointError):
    """A tensor has another shape than was said of it, or is not there, or was not said."""


class DTypeMismatchError(CheckpointError):
    """A tensor has another dtype than was said of it."""


class UnsafePathError(CheckpointError):
    """A name that leads out of its version, or a file that is a link or no file."""


class FormatError(CheckpointError):
    """JSON or safetensors that cannot be read for what they should be."""


class UnknownFormatError(FormatError):
    """Of a format version that this release does not know."""


class ForeignModelError(CheckpointError):
    """A checkpoint of another model."""


class SchemaMismatchError(CheckpointError):
    """A model wants a column that the reader does not have, or has by another definition."""


class UnusableModelError(CheckpointError):
    """Files that are as announced, and no ranker can be made of them."""


class ConflictError(CheckpointError):
    """A version is there already with other files, or of other samples."""


class PublishError(CheckpointError):
    """A checkpoint could not be written or announced, however often it was tried."""


class NoRankerError(CheckpointError):
    """A feed has not loaded any checkpoint yet."""
