"""Whether a Kafka answers, is the one to be trusted, and takes the credentials.

Asked before a client is made: the clients go on trying, and say only that their time is up.
"""

from __future__ import annotations

import asyncio
import ssl

from tenuto.streams.connection import KafkaConnection


class UnavailableError(RuntimeError):
    """A server did not answer: which address."""


class CredentialsError(UnavailableError):
    """A server answered, and refused who asked: which setting is to be mended."""


def reach(connection: KafkaConnection, timeout_s: float) -> None:
    """Return once one of the servers has taken a connection, TLS and SASL included.

    Must not be called on an event loop's thread.

    Args:
        connection: to Kafka.
        timeout_s: how long each server may take.

    Raises:
        CredentialsError: none did, and one refused the user, the password or the mechanism.
        UnavailableError: none did.
    """
    refused: UnavailableError | None = None
    for server in connection.servers:
        try:
            asyncio.run(_connect(connection, server, timeout_s))
        except UnavailableError as error:
            if refused is None or isinstance(error, CredentialsError):
                refused = error
        else:
            return
    assert refused is not None, "there is one server at least"
    raise refused


async def _connect(connection: KafkaConnection, server: str, timeout_s: float) -> None:
    # Loaded only here: of the commands that talk to Kafka, most need no other part of it.
    from aiokafka.conn import create_conn
    from aiokafka.errors import (
        KafkaError,
        SaslAuthenticationFailed,
        UnsupportedSaslMechanismError,
    )

    kafka = f"kafka at {connection.bootstrap}"
    host, _, port = server.rpartition(":")
    options = connection.aiokafka()
    del options["bootstrap_servers"]
    try:
        async with asyncio.timeout(timeout_s):
            connected = await create_conn(host.strip("[]"), int(port), **options)
    except SaslAuthenticationFailed as error:
        raise CredentialsError(
            f"{kafka}: wants another user or password: "
            "see kafka.sasl_username and kafka.sasl_password"
        ) from error
    except UnsupportedSaslMechanismError as error:
        raise CredentialsError(
            f"{kafka}: does not take {connection.sasl_mechanism}: see kafka.sasl_mechanism"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise UnavailableError(
            f"{kafka}: its certificate is not trusted: {error.verify_message}: see kafka.ssl_cafile"
        ) from error
    except (KafkaError, ssl.SSLError, ConnectionResetError, TimeoutError) as error:
        raise other_protocol(connection) from error
    except OSError as error:
        raise UnavailableError(f"{kafka} does not answer") from error
    connected.close()


def other_protocol(connection: KafkaConnection) -> UnavailableError:
    """Of a server that accepts, and then says nothing that is understood."""
    protocol = connection.security_protocol
    wanted = ""
    if protocol.endswith("SSL") and not connection.ssl_certfile:
        wanted = ", and does it want a certificate (kafka.ssl_certfile)"
    return UnavailableError(
        f"kafka at {connection.bootstrap} does not answer over {protocol}: "
        f"is that its protocol (kafka.security_protocol){wanted}?"
    )
