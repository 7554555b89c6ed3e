"""What a serving tier holds: the ranker of the checkpoint in force, changed as a whole or not.

Follows the announcements, verifies what they name, and keeps the ranker that it has when the next
one is refused. Loads torch with the first checkpoint, and nothing of Kafka unless a topic is given.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tenuto.features.schema import Column
from tenuto.trainer.checkpoints.errors import CheckpointError, NoRankerError
from tenuto.trainer.checkpoints.history import History
from tenuto.trainer.checkpoints.manifest import Announcement, Manifest, unnumbered
from tenuto.trainer.checkpoints.ranker_files import ranker_of
from tenuto.trainer.checkpoints.reader import CheckpointReader
from tenuto.trainer.checkpoints.schema_check import check_columns
from tenuto.trainer.checkpoints.sources import Source, is_topic, open_source

if TYPE_CHECKING:
    from tenuto.trainer.ranker import Ranker

logger = logging.getLogger(__name__)

_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class InForce:
    """A ranker and where it comes from; one value, so that it changes as a whole."""

    ranker: Ranker
    manifest: Manifest


@dataclass(frozen=True)
class Refusal:
    """Why the newest announcement was not taken into use.

    Attributes:
        sequence: of the announcement; 0 where none could be read.
        version: that it names; empty where none could be read.
        error: what was wrong; an OSError where the store or broker did not answer.
    """

    sequence: int
    version: str
    error: Exception

    @property
    def reason(self) -> str:
        """The kind of error, and its line."""
        return f"{type(self.error).__name__}: {self.error}"


class CheckpointFeed:
    """Follows the checkpoints of one model.

    Args:
        url: of the store, which is then asked for ``latest.json``; or a topic,
            ``kafka://host:port/checkpoints``.
        model: its name in the store.
        store: URL of the store where ``url`` is a topic.
        pin: a version to hold, whatever is announced; pin it in the store too
            (``tenuto checkpoints pin``), or it goes when its time has come.
        columns: what this process reads, ``FeatureSet.columns``: a checkpoint that wants another
            column is refused. Without it, such a checkpoint is refused by its first score.
        follow: load the newest checkpoint now, and go on in a thread; else only when
            :meth:`poll` or :meth:`load` is called.
        every_s: seconds between two looks.
        kafka: further options of ``kafka.KafkaConsumer`` (security).
        on_load, on_refuse: told of each, such as a metric.

    Raises:
        UnsafePathError: no name of a model or version.
        ValueError: a URL that cannot be one.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        store: str | None = None,
        pin: str | None = None,
        columns: Iterable[Column] | None = None,
        follow: bool = True,
        every_s: float = 2.0,
        kafka: Mapping[str, Any] | None = None,
        on_load: Callable[[Manifest], None] | None = None,
        on_refuse: Callable[[Refusal], None] | None = None,
    ) -> None:
        if is_topic(url) and store is None:
            raise ValueError(f"{url}: a topic only announces: give store= too")
        self._reader = CheckpointReader(store or url, model)
        self._open = partial(open_source, url, self._reader.store, model, kafka or {})
        self._pinned = unnumbered(model, pin) if pin else None
        self._columns = None if columns is None else list(columns)
        self._every_s = every_s
        self._on_load, self._on_refuse = on_load, on_refuse
        self._source: Source | None = None
        self._in_force: InForce | None = None
        self._refused: Refusal | None = None
        self._history = History(model)
        self._follow = follow
        self._failures, self._retry_at_s = 0, 0.0
        self._start()

    @property
    def ranker(self) -> Ranker:
        """The ranker in force; hold on to it for one request, and ask again for the next.

        Raises:
            NoRankerError: none was loaded yet; says why.
        """
        in_force = self._now()
        if in_force is None:
            why = f": {self._refused.reason}" if self._refused else ": nothing is published"
            raise NoRankerError(f"{self._reader.store.url}/{self._reader.model}{why}")
        return in_force.ranker

    @property
    def manifest(self) -> Manifest | None:
        """Of the checkpoint in force; None before the first."""
        in_force = self._now()
        return in_force.manifest if in_force else None

    @property
    def version(self) -> str:
        """Of the checkpoint in force; empty before the first."""
        manifest = self.manifest
        return manifest.version if manifest else ""

    @property
    def age_s(self) -> float:
        """Now less the snapshot arrival up to which the ranker in force has learnt; NaN before.

        As long as the trainer has found nothing more to learn, that moves on with it.
        """
        manifest = self.manifest
        if manifest is None:
            return math.nan
        front_ms = self._history.front_ms(manifest.version, manifest.front_ms)
        return time.time() - front_ms / 1000.0

    @property
    def refused(self) -> Refusal | None:
        """Why the newest announcement is not in force; None where it is."""
        return self._refused

    @property
    def announced_through_ms(self) -> int:
        """The greatest front announced, as far as was heard; 0 before the first."""
        return self._history.through_ms

    def poll(self) -> bool:
        """Hear what is new, and take the newest checkpoint into use.

        What is wrong with it is told by :attr:`refused`, not raised.

        Returns:
            Whether another checkpoint is in force than before.
        """
        return self._poll(forced=True)

    def announced_at(self, front_ms: int) -> Announcement | None:
        """What held when the trainer had passed a point of event time.

        Runs in lock-step use it: which checkpoint is in force then follows from the log, not from
        when it was looked.

        Args:
            front_ms: the point.

        Returns:
            The newest announcement with no later front, without a version where nothing was learnt
            by then; None while the trainer has not come so far.

        Raises:
            CheckpointError: it is not kept any longer, or cannot be read.
            OSError: the store or broker does not answer.
        """
        with self._lock:
            self._hear()
            return self._history.at(front_ms)

    def load(self, wanted: Announcement | str) -> Ranker:
        """Take one checkpoint into use: an announced one, or a version.

        Raises:
            CheckpointError: of the kind that says what is wrong; what was in force stays.
            OSError: the store does not answer.
        """
        with self._lock:
            if isinstance(wanted, str):
                wanted = unnumbered(self._reader.model, wanted)
            return self._load(wanted).ranker

    def close(self) -> None:
        """Stop following; the ranker in force stays."""
        self._stop.set()
        with self._lock:
            if self._source is not None:
                self._source.close()
                self._source = None

    def __enter__(self) -> CheckpointFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _now(self) -> InForce | None:
        if self._pid != os.getpid():
            if "torch" in sys.modules:
                # Its pool of threads stayed with the parent: waiting for them would never end.
                sys.modules["torch"].set_num_threads(1)
            self._start()
        return self._in_force

    def _start(self) -> None:
        """What a process has of its own: a fork has none of its parent's threads and sockets."""
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._source = None
        if self._follow:
            self._poll(forced=False)
            name = f"checkpoints of {self._reader.model}"
            threading.Thread(target=self._run, args=(self._stop,), name=name, daemon=True).start()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._every_s):
            try:
                self._poll(forced=False)
            except Exception:
                # Following must not end, whatever a callback does.
                logger.exception("checkpoints of %s: poll failed", self._reader.model)

    def _poll(self, *, forced: bool) -> bool:
        with self._lock:
            before = self._in_force
            wanted: Announcement | None = None
            try:
                # What is pinned does not wait for a log that cannot be read.
                if self._pinned is None or self.version:
                    self._hear()
                wanted = self._pinned or self._history.newest
                if wanted is not None and wanted.version not in ("", self.version):
                    if self._is_put_off(wanted) and not forced:
                        return False
                    self._load(wanted)
            except (CheckpointError, OSError) as error:
                self._refuse(Refusal(wanted.sequence if wanted else 0, _name(wanted), error))
            else:
                self._refused, self._failures = None, 0
            return self._in_force is not before

    def _hear(self) -> None:
        if self._source is None:
            self._source = self._open()
        self._history.add(self._source.new())

    def _load(self, wanted: Announcement) -> InForce:
        manifest = self._reader.manifest(wanted.version, announced_sha256=wanted.manifest_sha256)
        place = f"{self._reader.store.url}/{self._reader.folder(manifest.version)}"
        if self._columns is not None:
            check_columns(manifest.spec, self._columns, place)
        part = self._reader.part(manifest, "serving")
        loaded = InForce(ranker_of(manifest, part, place), manifest)
        self._in_force = loaded
        logger.info("checkpoint %s is in force", manifest.version)
        if self._on_load is not None:
            self._on_load(manifest)
        return loaded

    def _refuse(self, refusal: Refusal) -> None:
        self._failures += 1
        wait_s = min(_LONGEST_WAIT_S, self._every_s * 2.0 ** min(self._failures, 10))
        self._retry_at_s = time.monotonic() + wait_s
        known = self._refused
        self._refused = refusal
        if known is None or (known.sequence, known.reason) != (refusal.sequence, refusal.reason):
            kept = f"{self.version} stays" if self.version else "there is none to go on with"
            logger.error("checkpoint refused, %s: %s", kept, refusal.reason)
            if self._on_refuse is not None:
                self._on_refuse(refusal)

    def _is_put_off(self, wanted: Announcement) -> bool:
        """Whether it was refused a moment ago: what is damaged need not be fetched every time."""
        known = self._refused
        again = known is not None and known.sequence == wanted.sequence and known.version != ""
        return again and time.monotonic() < self._retry_at_s


def _name(wanted: Announcement | None) -> str:
    return wanted.version if wanted else ""
