"""Streaming real-time features and leak-free training samples for rankers.

``connect`` is what a ranker calls; the other names declare an application or read its samples.
Each is loaded when it is first asked for: importing ``tenuto`` costs a ranker next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenuto.features.deadline import DeadlineExceededError, StoreUnavailableError
    from tenuto.features.entities import Entity, Measure, count, total
    from tenuto.features.events import Event, Field
    from tenuto.features.matrix import Matrix, State
    from tenuto.features.moments import age, context, hour, weekday
    from tenuto.features.progress import PartitionCountError
    from tenuto.features.reader import ContextError, Request
    from tenuto.features.schema import DeclarationError
    from tenuto.features.sums import AsOfTooOldError
    from tenuto.features.values import coec, mean, rate, sums, wilson
    from tenuto.platform import Platform
    from tenuto.serving import AsyncTenuto, CaptureError, Tenuto, connect, connect_async
    from tenuto.settings import SettingsError
    from tenuto.snapshot.dataset import Samples
    from tenuto.snapshot.labels import Label, SampleStream, first, longest
    from tenuto.snapshot.labels import total as summed
    from tenuto.streams.codec import InvalidEventError
    from tenuto.streams.outbox import SendError
    from tenuto.trainer.checkpoints.feed import CheckpointFeed
    from tenuto.trainer.tasks import Task

__all__ = [
    "AsOfTooOldError",
    "AsyncTenuto",
    "CaptureError",
    "CheckpointFeed",
    "ContextError",
    "DeadlineExceededError",
    "DeclarationError",
    "Entity",
    "Event",
    "Field",
    "InvalidEventError",
    "Label",
    "Matrix",
    "Measure",
    "PartitionCountError",
    "Platform",
    "Request",
    "SampleStream",
    "Samples",
    "SendError",
    "SettingsError",
    "State",
    "StoreUnavailableError",
    "Task",
    "Tenuto",
    "__version__",
    "age",
    "coec",
    "connect",
    "connect_async",
    "context",
    "count",
    "first",
    "hour",
    "longest",
    "mean",
    "rate",
    "summed",
    "sums",
    "total",
    "weekday",
    "wilson",
]

_NAMES = {
    "features.deadline": ("DeadlineExceededError", "StoreUnavailableError"),
    "features.entities": ("Entity", "Measure", "count", "total"),
    "features.events": ("Event", "Field"),
    "features.matrix": ("Matrix", "State"),
    "features.moments": ("age", "context", "hour", "weekday"),
    "features.progress": ("PartitionCountError",),
    "features.reader": ("ContextError", "Request"),
    "features.schema": ("DeclarationError",),
    "features.sums": ("AsOfTooOldError",),
    "features.values": ("coec", "mean", "rate", "sums", "wilson"),
    "platform": ("Platform",),
    "serving": ("AsyncTenuto", "CaptureError", "Tenuto", "connect", "connect_async"),
    "settings": ("SettingsError",),
    "snapshot.dataset": ("Samples",),
    "snapshot.labels": ("Label", "SampleStream", "first", "longest"),
    "streams.codec": ("InvalidEventError",),
    "streams.outbox": ("SendError",),
    "trainer.checkpoints.feed": ("CheckpointFeed",),
    "trainer.tasks": ("Task",),
}
_HOMES = {name: (module, name) for module, names in _NAMES.items() for name in names}
# A counter over a window is a total; the label that adds up an event's field needs another name.
_HOMES["summed"] = ("snapshot.labels", "total")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            found: Any = version("tenuto")
        except PackageNotFoundError:
            # A checkout that was never installed.
            found = "0+unknown"
    elif name in _HOMES:
        module, attribute = _HOMES[name]
        found = getattr(import_module(f"tenuto.{module}"), attribute)
    else:
        raise AttributeError(f"module 'tenuto' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
