"""The application object: events, features, labels and sample streams in one place.

An application's own file builds one; workers, rankers and trainers import it by
``module:object``. Building it checks every declaration and opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from tenuto.features.events import Event
from tenuto.features.feature import Feature
from tenuto.features.rules import TimeRules
from tenuto.features.schema import DeclarationError, FeatureSet
from tenuto.snapshot.column_names import clashes
from tenuto.snapshot.labels import SampleStream
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.spec import ModelSpec, spec_of
from tenuto.trainer.tasks import Task
from tenuto.trainer.tasks import fault as task_fault


class Platform:
    """What an application declares.

    Args:
        name: of the application; part of consumer group names.
        events: event streams, each a topic.
        features: columns in order; lists of features may be nested once.
        samples: sample streams (joins) over the same snapshots.
        tasks: what the ranker predicts; their labels are of one sample stream.
        position_features: names of features that feed only the ranker's position tower, such as
            the device; mean positions do by themselves.
        scores: names of the served scores that rankers capture beside the tasks' own; columns of
            the samples.

    Raises:
        DeclarationError: declarations that do not fit together, by name.

    Example:
        >>> from tenuto.presets import video
        >>> len(video.app.feature_set().columns) <= 30
        True
    """

    def __init__(
        self,
        name: str,
        *,
        events: Iterable[Event],
        features: Iterable[Feature | Sequence[Feature]],
        samples: Iterable[SampleStream] = (),
        tasks: Iterable[Task] = (),
        position_features: Iterable[str] = (),
        scores: Iterable[str] = ("score",),
    ) -> None:
        self.name = name
        self.events = tuple(events)
        self.features = tuple(features)
        self.samples = tuple(samples)
        self.tasks = tuple(tasks)
        self.position_features = tuple(position_features)
        outputs = (name for task in self.tasks for name in task.outputs)
        self.scores = tuple(dict.fromkeys((*scores, *outputs)))
        self._feature_set = lru_cache(lambda rules: FeatureSet.of(self.features, rules))
        self._check()

    def feature_set(self, rules: TimeRules | None = None) -> FeatureSet:
        """The declared features, with their layout under these rules of time."""
        return self._feature_set(rules or TimeRules())

    def event(self, name: str) -> Event:
        """A declared event by name.

        Raises:
            KeyError: there is none of that name.
        """
        for event in self.events:
            if event.name == name:
                return event
        raise KeyError(f"no event {name!r}: there are {', '.join(e.name for e in self.events)}")

    def sample_stream(self, name: str = "default") -> SampleStream:
        """A declared sample stream by name; the only one goes by any default."""
        for stream in self.samples:
            if stream.name == name or (name == "default" and len(self.samples) == 1):
                return stream
        known = ", ".join(s.name for s in self.samples) or "none"
        raise KeyError(f"no sample stream {name!r}: there is {known}")

    def trained_stream(self) -> SampleStream:
        """The sample stream that has the labels of the tasks.

        Raises:
            DeclarationError: there are no tasks, or no stream has all of their labels.
        """
        if not self.tasks:
            raise DeclarationError(
                f"app {self.name!r} declares no tasks: there is nothing to train"
            )
        faults = {stream: task_fault(self.tasks, stream) for stream in self.samples}
        for stream, found in faults.items():
            if found is None:
                return stream
        raise DeclarationError(next(iter(faults.values()), None) or "tasks: no sample stream")

    def model_spec(self, settings: ModelSettings, rules: TimeRules | None = None) -> ModelSpec:
        """What its ranker takes in and gives out."""
        features = self.feature_set(rules)
        return spec_of(features, self.tasks, settings, self.position_features)

    def _check(self) -> None:
        names = [event.name for event in self.events]
        for name in names:
            if names.count(name) > 1:
                raise DeclarationError(f"events: {name!r} is declared twice")
        declared = dict(zip(names, self.events, strict=True))
        for topic in self.feature_set().layout.topics:
            if topic not in declared:
                raise DeclarationError(
                    f"features: {topic!r} is counted but not among the events: add it to events="
                )
        for stream in self.samples:
            for label in stream.labels:
                if declared.get(label.event.name) != label.event:
                    raise DeclarationError(
                        f"samples: label {label.name!r} is read off {label.event.name!r}, "
                        "which is not among the events: add it to events="
                    )
            for clash in clashes(self.feature_set().names, stream):
                raise DeclarationError(f"{clash}: give it another name")
        if self.tasks:
            self.trained_stream()
        unknown = sorted(set(self.position_features) - set(self.feature_set().names))
        if unknown:
            raise DeclarationError(f"position_features: no feature {', '.join(unknown)}")
        stream_names = [stream.name for stream in self.samples]
        if len(set(stream_names)) < len(stream_names):
            raise DeclarationError(f"samples: two streams have one name: {stream_names}")
