"""Which versions may go, which is pure, and their going, with whatever dead publishers left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tenuto.trainer.checkpoints.log import AnnouncementLog
from tenuto.trainer.checkpoints.manifest import PARTS, Announcement
from tenuto.trainer.checkpoints.pins import Pins
from tenuto.trainer.checkpoints.reader import CheckpointReader

KEPT_ANNOUNCEMENTS = 100


def expired(versions: Iterable[str], *, keep: int, protected: Collection[str]) -> list[str]:
    """Versions that are neither among the ``keep`` newest nor protected, oldest first."""
    ordered = sorted(versions)
    old = ordered[: max(0, len(ordered) - keep)]
    return [version for version in old if version not in protected]


def announced_lately(announcements: Sequence[Announcement], *, keep: int) -> set[str]:
    """The last ``keep`` distinct versions that were announced: readers may be fetching them.

    Args:
        announcements: oldest first; the last one names what holds now.
        keep: at least one.
    """
    found: dict[str, None] = {}
    for announcement in reversed(announcements):
        if announcement.version:
            found.setdefault(announcement.version)
        if len(found) == max(1, keep):
            break
    return set(found)


def clean(
    reader: CheckpointReader, log: AnnouncementLog, pins: Pins, *, keep: int, up_to: str
) -> None:
    """Remove what is not kept any longer, and what publishers that were killed left.

    Args:
        reader: of the model's versions.
        log: its announcements.
        pins: versions that stay.
        keep: newest versions that stay, and as many announced ones.
        up_to: unfinished versions later than this may be somebody's who is ahead, and stay.

    Raises:
        OSError: the store refuses.
    """
    store = reader.store
    log.sweep()
    pins.sweep()
    complete = reader.versions()
    unfinished = [v for v in reader.folders() if v not in complete and v <= up_to]
    protected = announced_lately(log.since(0), keep=keep) | pins.versions()
    for version in [*unfinished, *expired(complete, keep=keep, protected=protected)]:
        folder = reader.folder(version)
        # Without its manifest it is no version any more, whatever becomes of the rest.
        store.delete(f"{folder}/manifest.json")
        store.delete(folder)
    for version in reader.versions():
        for folder in ("", *(f"/{part}" for part in PARTS)):
            store.sweep(reader.folder(version) + folder)
    log.drop(KEPT_ANNOUNCEMENTS)
