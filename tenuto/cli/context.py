"""What commands share: settings, the application object, and connections, each made when asked."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from tenuto import logs
from tenuto.settings import Loaded, Settings, SettingsError, load

if TYPE_CHECKING:
    from tenuto.features.schema import FeatureSet
    from tenuto.platform import Platform
    from tenuto.snapshot.labels import SampleStream
    from tenuto.streams.topic_names import TopicNames
    from tenuto.streams.topics import Topic, Topics


class InputError(Exception):
    """A setting, a declaration or an input that cannot be used; one line, exit code 2."""


class NoServerError(Exception):
    """A server that does not answer; one line that says which, exit code 3."""


class Context:
    """Given to every command.

    Args:
        config_file: as ``--config``.
        flags: dotted settings from the command line.
        log_format: ``text`` or ``json``.
    """

    def __init__(self, config_file: Path | None, flags: Mapping[str, Any], log_format: str) -> None:
        self._file = config_file
        self._flags = dict(flags)
        self.log_format = log_format

    def override(self, **flags: Any) -> None:
        """Further flags of a command; ``__`` stands for the dot."""
        given = {k.replace("__", "."): v for k, v in flags.items() if v is not None}
        self._flags.update(given)
        self.__dict__.pop("loaded", None)

    @cached_property
    def loaded(self) -> Loaded:
        try:
            return load(self._file, None, self._flags)
        except SettingsError as error:
            raise InputError(str(error)) from error

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    @cached_property
    def platform(self) -> Platform:
        """The application object that ``app`` names."""
        return load_app(self.settings.app)

    @property
    def features(self) -> FeatureSet:
        return self.platform.feature_set(self.settings.time.rules())

    def sample_stream(self, name: str) -> SampleStream:
        """A declared sample stream.

        Raises:
            InputError: there is none of that name.
        """
        try:
            return self.platform.sample_stream(name)
        except KeyError as error:
            raise InputError(str(error.args[0])) from error

    @property
    def names(self) -> TopicNames:
        from tenuto.streams.topic_names import TopicNames

        return TopicNames(self.settings.namespace)

    def topic_plan(self) -> list[Topic]:
        """Every topic of the application, as settings want them.

        Raises:
            InputError: topics would forget what a lost store is to be rebuilt from.
        """
        from tenuto.features.durations import duration_ms, duration_text
        from tenuto.streams.topics import Sizes, plan

        settings = self.settings
        retention_ms = duration_ms(settings.kafka.retention)
        history_ms = self.features.layout.history_ms
        if retention_ms < history_ms:
            raise InputError(
                f"kafka.retention ({self.loaded.origins.get('kafka.retention', 'default')}): "
                f"{settings.kafka.retention!r}: must be at least {duration_text(history_ms)}, "
                "which the longest window is rebuilt from"
            )
        return plan(
            self.names,
            self.platform.events,
            self.platform.samples,
            partitions=settings.kafka.partitions,
            sizes=Sizes(settings.limits.event_bytes, settings.limits.snapshot_bytes),
            clock="broker" if settings.workers.live else "driver",
            retention_ms=retention_ms,
        )

    def topics(self) -> Topics:
        """A connection to Kafka's administration.

        Raises:
            NoServerError: it does not answer.
        """
        from tenuto.streams.topics import Topics, UnavailableError

        try:
            return Topics(self.settings.kafka)
        except UnavailableError as error:
            raise NoServerError(str(error)) from error

    def redis(self) -> redis.Redis:
        """A Redis that has answered.

        Raises:
            NoServerError: it does not.
        """
        client = self.settings.redis.client()
        try:
            client.ping()
        except redis.AuthenticationError as error:
            raise InputError(
                f"redis at {self.settings.redis.address}: wants another user or password: "
                "see redis.username and redis.password"
            ) from error
        except redis.RedisError as error:
            raise NoServerError(
                f"redis at {self.settings.redis.address} does not answer"
            ) from error
        return client

    def log_to_stderr(self) -> None:
        """Set up logging for this process."""
        logs.configure(self.log_format)


def load_app(name: str) -> Platform:
    """The application object ``module:object``.

    Raises:
        InputError: no such module or object, or its declarations do not fit together.
    """
    from tenuto.features.schema import DeclarationError
    from tenuto.platform import Platform

    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise InputError(f"app {name}: must be module:object, for example myapp.ranking:app")
    if os.getcwd() not in sys.path:
        # An application is found in the directory that the command is run in.
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise InputError(f"app {name}: there is no module {module_name}") from error
    except (DeclarationError, ValueError, TypeError) as error:
        place = _declared_at(error)
        if place is None:
            raise
        raise InputError(f"app {name}: {error} ({place})") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Platform):
        what = "is no Platform" if hasattr(module, attribute) else "does not exist"
        there = [key for key, value in vars(module).items() if isinstance(value, Platform)]
        mend = f": there is {', '.join(there)}" if there else ""
        raise InputError(f"app {name}: {module_name}.{attribute} {what}{mend}")
    return found


def _declared_at(error: Exception) -> str | None:
    """File and line of the declaration that a tenuto module refused; None for another's error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    packages = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in frames]
    if packages[-1] != "tenuto":
        return None
    users = [at for at, package in enumerate(packages) if package not in ("tenuto", "importlib")]
    if not users:
        return None
    frame, line = frames[users[-1]]
    return f"{frame.f_code.co_filename}:{line}"
