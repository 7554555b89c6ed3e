"""How to reach Kafka, and the same said to each of the three client libraries."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class KafkaConnection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bootstrap servers and security of one Kafka.

    Attributes:
        bootstrap: ``host:port`` pairs, separated by commas.
        security_protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, with a SASL protocol.
        sasl_username, sasl_password: with a SASL protocol.
        ssl_cafile, ssl_certfile, ssl_keyfile: PEM files, with an SSL protocol.
        fetch_max_wait_ms: how long the broker may hold an idle fetch.
    """

    bootstrap: str = "127.0.0.1:9092"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_username: str = ""
    sasl_password: str = ""
    ssl_cafile: str = ""
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    fetch_max_wait_ms: int = 500

    @property
    def servers(self) -> list[str]:
        return [server.strip() for server in self.bootstrap.split(",")]

    def faults(self) -> Iterator[tuple[str, str]]:
        """What cannot work whatever the broker says: the field, and what would be right."""
        for server in self.servers:
            host, _, port = server.rpartition(":")
            if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
                yield "bootstrap", "must be host:port, several separated by commas"
        if self.security_protocol not in PROTOCOLS:
            yield "security_protocol", f"must be one of {', '.join(PROTOCOLS)}"
        if self.sasl_mechanism not in MECHANISMS:
            yield "sasl_mechanism", f"must be one of {', '.join(MECHANISMS)}"
        for field in ("sasl_username", "sasl_password"):
            if self._sasl and not getattr(self, field):
                yield field, f"must be given with {self.security_protocol}"
        if self.sasl_username and not self._sasl:
            yield "sasl_username", "needs a kafka.security_protocol that begins with SASL_"
        for field in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            if getattr(self, field) and not self._tls:
                yield field, "needs a kafka.security_protocol that ends with SSL"
            elif getattr(self, field) and not Path(getattr(self, field)).is_file():
                yield field, "must be a PEM file: there is none"
        if self.ssl_keyfile and not self.ssl_certfile:
            yield "ssl_certfile", "must be given with kafka.ssl_keyfile"
        if not self._tls:
            return
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile or None)
        except OSError:
            yield "ssl_cafile", "must be a PEM file with certificates: it cannot be read as one"
            return
        try:
            self._show_certificate(context)
        except OSError:
            yield (
                "ssl_certfile",
                "must have, as PEM, a certificate and (or kafka.ssl_keyfile) its plain key",
            )

    def kafka_python(self) -> dict[str, Any]:
        """Options of kafka-python's clients."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "security_protocol": self.security_protocol,
        }
        if self._sasl:
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
        if self._tls:
            options["ssl_context"] = self._ssl_context()
        return options

    def aiokafka(self) -> dict[str, Any]:
        """Options of aiokafka's clients: the same names."""
        return self.kafka_python()

    def aiokafka_consumer(self) -> dict[str, Any]:
        """Options of an ``AIOKafkaConsumer``."""
        return {**self.aiokafka(), "fetch_max_wait_ms": self.fetch_max_wait_ms}

    def faust(self) -> dict[str, Any]:
        """Arguments of :func:`tenuto.streams.worker.faust_app`."""
        import faust

        context = self._ssl_context() if self._tls else None
        options: dict[str, Any] = {
            "brokers": self.servers,
            "fetch_max_wait_ms": self.fetch_max_wait_ms,
        }
        if self._sasl:
            options["credentials"] = faust.SASLCredentials(
                username=self.sasl_username,
                password=self.sasl_password,
                ssl_context=context,
                mechanism=self.sasl_mechanism,
            )
        elif context is not None:
            options["credentials"] = faust.SSLCredentials(context)
        return options

    @property
    def _sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def _tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ssl_cafile or None)
        self._show_certificate(context)
        return context

    def _show_certificate(self, context: ssl.SSLContext) -> None:
        if self.ssl_certfile:
            # Without a password OpenSSL would ask the terminal for one.
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile or None, password="")
