"""What commands share: settings, the application object, and connections, each made when asked."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import NoPermissionError

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
        from tenuto.application import load_app

        if os.getcwd() not in sys.path:
            # An application is found in the directory that the command is run in.
            sys.path.insert(0, os.getcwd())
        try:
            return load_app(self.settings.app)
        except SettingsError as error:
            raise InputError(str(error)) from error

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
        from tenuto.topic_plan import topic_plan

        settings = self.settings
        retention_ms = duration_ms(settings.kafka.retention)
        history_ms = self.features.layout.history_ms
        if retention_ms < history_ms:
            raise InputError(
                f"kafka.retention ({self.loaded.origins.get('kafka.retention', 'default')}): "
                f"{settings.kafka.retention!r}: must be at least {duration_text(history_ms)}, "
                "which the longest window is rebuilt from"
            )
        return topic_plan(settings, self.platform)

    def topics(self) -> Topics:
        """A connection to Kafka's administration.

        Raises:
            InputError: it refuses the credentials.
            NoServerError: it does not answer.
        """
        from tenuto.streams.reach import CredentialsError, UnavailableError
        from tenuto.streams.topics import Topics

        try:
            return Topics(self.settings.kafka)
        except CredentialsError as error:
            raise InputError(str(error)) from error
        except UnavailableError as error:
            raise NoServerError(str(error)) from error

    def redis(self) -> redis.Redis:
        """A Redis that has answered.

        Raises:
            InputError: it refuses the credentials.
            NoServerError: it does not answer, or is not to be trusted.
        """
        settings = self.settings.redis
        where = f"redis at {settings.address}"
        client = settings.client()
        try:
            client.ping()
            if settings.cluster:
                settings.nodes().node(0)
        except redis.AuthenticationError as error:
            raise InputError(
                f"{where}: wants another user or password: see redis.username and redis.password"
            ) from error
        except NoPermissionError as error:
            raise InputError(f"{where}: {error}: see redis.username") from error
        except redis.ResponseError as error:
            raise InputError(f"{where}: {error}: see redis.cluster") from error
        except redis.RedisError as error:
            untrusted = error.__context__
            if isinstance(untrusted, ssl.SSLCertVerificationError):
                raise NoServerError(
                    f"{where}: its certificate is not trusted: {untrusted.verify_message}: "
                    "see redis.ssl_ca_certs"
                ) from error
            raise NoServerError(f"{where} does not answer") from error
        return client
