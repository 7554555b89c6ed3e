"""How to reach Redis."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import redis


class RedisConnection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """URL and security of one Redis.

    Attributes:
        url: ``redis://host:port/db``, or ``rediss://`` for TLS; may hold user and password.
        username, password: where the URL does not hold them.
        ssl_ca_certs: PEM file of the authorities to trust, with ``rediss://``.
        socket_timeout_s: after which a silent Redis counts as gone.
    """

    url: str = "redis://127.0.0.1:6379/0"
    username: str = ""
    password: str = ""
    ssl_ca_certs: str = ""
    socket_timeout_s: float = 10.0

    def options(self) -> dict[str, Any]:
        """Options for ``from_url``, without the URL and the timeouts."""
        options: dict[str, Any] = {}
        if self.username:
            options["username"] = self.username
        if self.password:
            options["password"] = self.password
        if self.ssl_ca_certs:
            options["ssl_ca_certs"] = self.ssl_ca_certs
        return options

    def client(self) -> redis.Redis:
        """A synchronous client; it connects on first use."""
        return redis.Redis.from_url(
            self.url,
            socket_timeout=self.socket_timeout_s,
            socket_connect_timeout=min(5.0, self.socket_timeout_s),
            **self.options(),
        )

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 6379}"


def without_password(url: str) -> str:
    """A URL as it may be printed."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = f"{parts.username or ''}:***@{parts.hostname}"
    netloc = f"{host}:{parts.port}" if parts.port else host
    return urlunsplit(parts._replace(netloc=netloc))
