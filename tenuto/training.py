"""From settings and the application to what the trainer takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tenuto.platform import Platform
from tenuto.processes import broker_of
from tenuto.settings import Settings
from tenuto.trainer.checkpoints.announcer import Announcer, TopicAnnouncer
from tenuto.trainer.checkpoints.manifest import Origin
from tenuto.trainer.directory_source import DirectorySource
from tenuto.trainer.positions import Position
from tenuto.trainer.sample_source import SampleSource
from tenuto.trainer.topic_source import TopicSource
from tenuto.trainer.trainer import Trainer
from tenuto.trainer.training import Training


def model_name(settings: Settings, platform: Platform) -> str:
    """The model's name in the store."""
    return settings.trainer.model or platform.name


def trainer_of(
    settings: Settings,
    platform: Platform,
    samples: Path | None = None,
    *,
    announcers: Sequence[Announcer] = (),
) -> Trainer:
    """A trainer of the application's ranker, from its newest checkpoint on.

    Args:
        settings: the process's.
        platform: the application.
        samples: a sink's directory to learn from, instead of the samples topic.
        announcers: told of checkpoints, beside the store's feed and the topic's.

    Raises:
        DeclarationError: the application has no tasks.
        CheckpointError, ModeError, SampleTopicError, SampleFilesError, ValueError: see
            :class:`~tenuto.trainer.trainer.Trainer`.
    """
    rules, stream = settings.time.rules(), platform.trained_stream()
    broker = broker_of(settings)

    def opened(positions: Mapping[int, Position]) -> SampleSource:
        if samples is not None:
            return DirectorySource(samples, positions=positions)
        return TopicSource(topic, settings.kafka.kafka_python(), positions, life=life)

    if samples is None:
        topic = broker.topics.of(stream.topic)
        life = broker.incarnation(topic)
        origin = Origin(topic, life.hex())
        topic_announcer = TopicAnnouncer(broker.topics.checkpoints, settings.kafka.kafka_python())
        announcers = [topic_announcer, *announcers]
    else:
        # Files announce to whoever follows the store; one folder is the same however it is spelt.
        origin = Origin(str(samples.resolve()))
    training = Training(
        platform.model_spec(settings.model, rules),
        settings.trainer,
        model_name(settings, platform),
        origin,
        horizon_ms=stream.horizon_ms(rules.lateness_ms),
        lateness_ms=rules.snapshot_lateness_ms,
        announcers=announcers,
    )
    return Trainer(training, opened)
