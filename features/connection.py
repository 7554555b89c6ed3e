"""How to reach Redis."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import redis

from tenuto.features.bucket_keys import MAX_BUCKETS
from tenuto.features.cluster import Cluster

_SECRET_WORDS = ("password", "secret", "token", "key_id", "credential", "signature")


class RedisConnection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """URL and security of one Redis.

    Attributes:
        url: ``redis://host:port/db``, or ``rediss://`` for TLS; may hold user and password.
        username, password: where the URL does not hold them.
        ssl_ca_certs: PEM file of the authorities to trust, with ``rediss://``.
        socket_timeout_s: after which a silent Redis counts as gone.
        cluster: whether the URL is of a node of a Redis Cluster, which names the others.
        buckets: parts that the state is kept in, each on one node of a cluster.
    """

    url: str = "redis://127.0.0.1:6379/0"
    username: str = ""
    password: str = ""
    ssl_ca_certs: str = ""
    socket_timeout_s: float = 10.0
    cluster: bool = False
    buckets: Annotated[int, msgspec.Meta(ge=1, le=MAX_BUCKETS)] = 1

    def faults(self) -> Iterator[tuple[str, str]]:
        """What cannot work whatever the server says: the field, and what would be right."""
        scheme = self.url.partition("://")[0]
        if scheme not in ("redis", "rediss", "unix") or "://" not in self.url:
            yield "url", "must begin with redis://, rediss:// or unix://"
            return
        try:
            urlsplit(self.url).port  # noqa: B018 - parsed when it is asked for
        except ValueError:
            yield "url", "its port must be a number"
        if self.cluster and scheme == "unix":
            yield "url", "must begin with redis:// or rediss:// where redis.cluster is true"
        if self.cluster and urlsplit(self.url).path.strip("/") not in ("", "0"):
            yield "url", "must name database 0: a cluster has no other"
        if self.ssl_ca_certs and scheme != "rediss":
            yield "ssl_ca_certs", "needs a redis.url that begins with rediss://"
        elif self.ssl_ca_certs and not Path(self.ssl_ca_certs).is_file():
            yield "ssl_ca_certs", "must be a PEM file: there is none"
        elif self.ssl_ca_certs:
            try:
                ssl.create_default_context(cafile=self.ssl_ca_certs)
            except OSError:
                yield "ssl_ca_certs", "must be a PEM file with certificates: it cannot be read so"

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
        """A synchronous client; it connects on first use. In a cluster, of the one node."""
        return redis.Redis.from_url(self.url, **self._timeouts(), **self.options())

    def nodes(self) -> Cluster:
        """Synchronous clients of a cluster's nodes."""
        return Cluster(self.url, **self._timeouts(), **self.options())

    def _timeouts(self) -> dict[str, float]:
        return {
            "socket_timeout": self.socket_timeout_s,
            "socket_connect_timeout": min(5.0, self.socket_timeout_s),
        }

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 6379}"


def without_password(url: str) -> str:
    """A URL as it may be printed: of Redis, or of a store of checkpoints."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0][:20]}://***"
    if "@" in url and "@" not in parts.netloc:
        # A password with an unquoted / or # in it: where it ends is anybody's guess.
        return f"{parts.scheme}://***"
    user, at, host = parts.netloc.rpartition("@")
    hidden = f"{user.partition(':')[0]}:***" if ":" in user else user
    # redis-py takes options from the query too.
    query = [
        (k, "***" if any(word in k.lower() for word in _SECRET_WORDS) else v)
        for k, v in parse_qsl(parts.query)
    ]
    return urlunsplit(
        parts._replace(netloc=f"{hidden}{at}{host}", query=urlencode(query, safe="*/"))
    )
