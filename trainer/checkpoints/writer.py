"""Publishing checkpoints: objects first, the manifest last, then the announcement.

A reader goes from ``latest.json`` to a manifest to files, so whatever instant the publisher dies
at, it sees the former checkpoint or the new one. What a dead publisher left is removed, and what
it had not yet announced is announced, by the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import msgspec
import orjson

from tenuto.trainer.checkpoints.announcer import TRANSIENT, Announcer
from tenuto.trainer.checkpoints.contents import Checkpoint, files_of, manifest_of
from tenuto.trainer.checkpoints.errors import CheckpointError, ConflictError
from tenuto.trainer.checkpoints.log import AnnouncementLog
from tenuto.trainer.checkpoints.manifest import (
    FORMAT,
    Announcement,
    Manifest,
    encode,
    sha256,
    unnumbered,
)
from tenuto.trainer.checkpoints.pins import Pins
from tenuto.trainer.checkpoints.reader import CheckpointReader
from tenuto.trainer.checkpoints.retention import clean
from tenuto.trainer.checkpoints.retry import Retry
from tenuto.trainer.checkpoints.store import Store, open_store

logger = logging.getLogger(__name__)

Reason = Literal["published", "unchanged", "rollback"]
T = TypeVar("T")


def _ignore(error: Exception) -> None:
    return


class Publisher:
    """Writes and announces the checkpoints of one model.

    Args:
        store: a store or its URL.
        model: its name there.
        keep: newest versions to keep; those announced lately, pinned or in force are kept anyway.
        announcers: told of each announcement, beside the store's own files.
        retry: how often a failing medium is tried.
        on_failure: told of each failure, such as a metric.
    """

    def __init__(
        self,
        store: Store | str,
        model: str,
        *,
        keep: int = 5,
        announcers: Sequence[Announcer] = (),
        retry: Retry | None = None,
        on_failure: Callable[[Exception], None] = _ignore,
    ) -> None:
        self._store = open_store(store) if isinstance(store, str) else store
        self._model = model
        self._keep = max(1, keep)
        self._announcers = announcers
        self._retry = retry or Retry()
        self._on_failure = on_failure
        self._log = AnnouncementLog(self._store, model)
        self._pins = Pins(self._store, model)
        self._reader = CheckpointReader(self._store, model)

    def recover(self, newest: Manifest | None) -> None:
        """Finish what a former publisher was killed in; call it once, before going on.

        Args:
            newest: the version that the trainer goes on from, which is whole.

        Raises:
            PublishError: the store or a topic cannot be written.
        """

        def finish() -> None:
            self._log.point()
            if newest is not None:
                self._announce(self._of(newest, "published"))
            self._deliver()

        self._try("recovery", finish)
        self._clean(newest.version if newest else "")

    def publish(self, checkpoint: Checkpoint) -> Announcement:
        """Write a checkpoint and announce it; if it is there already, what is missing of that.

        Returns:
            Its announcement, or where a trainer had come further before it was started again, the
            last one that it made then.

        Raises:
            ConflictError: the version is there with other files, or the model learns from other
                samples.
            PublishError: the store or a topic cannot be written; what was announced before holds.
            ValueError: it cannot be written as files.
        """
        files, weights = files_of(checkpoint)
        manifest = manifest_of(self._model, checkpoint, files, weights)

        def attempt() -> Announcement:
            self._log.point()
            self._check_samples(manifest)
            written = self._write(manifest, files)
            announcement = self._announce(self._of(written, "published"))
            self._deliver()
            return announcement

        try:
            return self._try(f"checkpoint {manifest.version}", attempt)
        finally:
            # A version without a manifest, this one too, only takes room.
            self._clean(manifest.version)

    def announce(self, front_ms: int, horizon_ms: int) -> Announcement:
        """Say that the trainer has passed another point of its grid, and what holds still does.

        Args:
            front_ms: the point.
            horizon_ms: H of the sample stream.

        Raises:
            CheckpointError: as :meth:`publish`.
        """

        def attempt() -> Announcement:
            self._log.point()
            # After a rollback, the older version: only a new one ends it. It may be gone from the
            # store, and is told as it was: a trainer that learns it again writes it anew.
            latest = self._log.latest() or unnumbered(self._model, "")
            announcement = self._announce(
                msgspec.structs.replace(
                    latest,
                    front_ms=front_ms,
                    available_at_ms=front_ms + horizon_ms,
                    reason="unchanged",
                )
            )
            self._deliver()
            return announcement

        announcement = self._try(f"announcement of {front_ms}", attempt)
        self._clean("")
        return announcement

    def roll_back(self, version: str) -> Announcement:
        """Let an older version hold again, until the next one is published.

        Raises:
            CheckpointError: it is not whole, or cannot be announced.
        """
        manifest = self._reader.manifest(version)
        for path in manifest.files:
            self._reader.file(manifest, path)

        def attempt() -> Announcement:
            self._log.point()
            latest = self._log.latest()
            if latest is not None and latest.version == version:
                self._deliver()
                return latest
            announcement = self._append(self._of(manifest, "rollback"))
            self._deliver()
            return announcement

        return self._try(f"rollback to {version}", attempt)

    def _write(self, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
        """Put a version into the store; returns the manifest that is there."""
        folder = self._reader.folder(manifest.version)
        there = self._manifest_there(manifest.version)
        if there is not None:
            _compare(there, manifest, f"{self._store.url}/{folder}")
        for path, data in files.items():
            if there is None or not self._is_whole(there, path):
                self._store.write(f"{folder}/{path}", data)
        if there is None:
            self._store.write(f"{folder}/manifest.json", encode(manifest))
        return there or manifest

    def _manifest_there(self, version: str) -> Manifest | None:
        try:
            return self._reader.manifest(version)
        except CheckpointError:
            # Not there, or damaged: a version's files follow from the samples, so write them again.
            return None

    def _is_whole(self, manifest: Manifest, path: str) -> bool:
        try:
            self._reader.file(manifest, path)
        except CheckpointError:
            return False
        return True

    def _check_samples(self, manifest: Manifest) -> None:
        latest = self._log.latest()
        if latest is None or latest.manifest is None:
            return
        before = latest.manifest.get("samples")
        if before != msgspec.to_builtins(manifest.samples):
            raise ConflictError(
                f"{self._store.url}/{self._model}: {latest.version} has learnt from {before}, not "
                f"{msgspec.to_builtins(manifest.samples)}: give this model another name"
            )

    def _announce(self, one: Announcement) -> Announcement:
        """Append to the log, unless a trainer has announced this or more before."""
        self._log.point()
        # A rollback says nothing of how far the trainer has come.
        last = next((a for a in reversed(self._log.since(0)) if a.reason != "rollback"), None)
        if last is not None and (one.front_ms, one.version) <= (last.front_ms, last.version):
            return last
        return self._append(one)

    def _append(self, one: Announcement) -> Announcement:
        return self._log.append(lambda sequence: msgspec.structs.replace(one, sequence=sequence))

    def _of(self, manifest: Manifest, reason: Reason) -> Announcement:
        """What is to be said of a version, without a number yet."""
        # The bytes that readers will fetch, whoever wrote them.
        data = self._store.read(f"{self._reader.folder(manifest.version)}/manifest.json")
        return Announcement(
            format=FORMAT,
            sequence=0,
            model=self._model,
            version=manifest.version,
            front_ms=manifest.front_ms,
            available_at_ms=manifest.front_ms + manifest.horizon_ms,
            manifest_sha256=sha256(data),
            reason=reason,
            manifest=orjson.loads(data),
        )

    def _deliver(self) -> None:
        """Let announcers have what they have not had yet."""
        if self._announcers:
            kept = self._log.since(0)
            for announcer in self._announcers:
                announcer.deliver(kept)

    def _try(self, what: str, action: Callable[[], T]) -> T:
        return self._retry.run(what, action, TRANSIENT, self._on_failure)

    def _clean(self, up_to: str) -> None:
        try:
            clean(self._reader, self._log, self._pins, keep=self._keep, up_to=up_to)
        except (OSError, CheckpointError) as error:
            # Tried again after the next announcement.
            logger.warning("checkpoints of %s: not cleaned: %s", self._model, error)
            self._on_failure(error)


def _compare(there: Manifest, new: Manifest, place: str) -> None:
    different = [path for path in new.files if there.files.get(path) != new.files[path]]
    different += sorted(set(there.files) - set(new.files))
    if different:
        raise ConflictError(
            f"{place}: is there with another {different[0]} (weights {there.weights[:12]}, now "
            f"{new.weights[:12]}; runtime {there.runtime}, now {new.runtime}): remove it, or give "
            "the model another name"
        )
