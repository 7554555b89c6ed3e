"""A Redis behind TLS, with users and passwords: rankers, workers and commands reach it by settings.

A ranker's user may read only and a worker's may do nothing dangerous but INFO, as
docs/production.md says; so these tests also hold that page against a server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from redis.exceptions import NoPermissionError
from secure_servers import Certificates, make_certificates, tls_redis
from serving_setup import NOW, environment, set_up

import tenuto
from tenuto import local
from tenuto.cli import main
from tenuto.drive.workers import Workers
from tenuto.features.connection import RedisConnection
from tenuto.settings import Settings

pytestmark = pytest.mark.stack

# As an URL in a setting would not take them unquoted.
SECRETS = {"default": "hu/sh#1", "ranker": "rank@2:%", "worker": "work=3"}
RIGHTS = {
    "ranker": "~{tenuto.* +@read +@connection",
    "worker": "~{tenuto.* +@all -@dangerous +info",
}


@dataclass(frozen=True)
class Guarded:
    url: str
    certificates: Certificates

    def as_user(self, name: str, **changes: str) -> RedisConnection:
        found = RedisConnection(
            url=self.url,
            username=name,
            password=SECRETS[name],
            ssl_ca_certs=self.certificates.ca,
        )
        return msgspec.structs.replace(found, **changes)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("redis")
    certificates = make_certificates(folder)
    users = [f"user {name} on >{SECRETS[name]} {rights}" for name, rights in RIGHTS.items()]
    password = f'requirepass "{SECRETS["default"]}"'
    with tls_redis(folder, certificates, password, *users) as url:
        yield Guarded(url, certificates)


@pytest.fixture
def env(embedded: local.LocalStack, guarded: Guarded) -> dict[str, str]:
    """Variables of a platform whose Redis is the guarded one, for its worker."""
    return environment(
        embedded,
        TENUTO_REDIS__URL=guarded.url,
        TENUTO_REDIS__USERNAME="worker",
        TENUTO_REDIS__PASSWORD=SECRETS["worker"],
        TENUTO_REDIS__SSL_CA_CERTS=guarded.certificates.ca,
    )


@pytest.fixture
def settings(env: dict[str, str], guarded: Guarded) -> Settings:
    """A ranker's, of a store in which three items were clicked."""
    return msgspec.structs.replace(set_up(env), redis=guarded.as_user("ranker"))


def command(env: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env=env)


def read(client: tenuto.Tenuto) -> list[float]:
    request = tenuto.Request("r", "u1", "q1", NOW)
    matrix = client.read(request, ["i0", "i1", "i2"], timeout_ms=5_000)
    counts: list[float] = matrix.column("item_clicks_1h").tolist()
    return counts


def test_a_ranker_reads_over_tls_as_a_user_that_may_only_read(settings: Settings) -> None:
    with tenuto.connect(settings=settings) as client:
        assert read(client) == [1.0, 2.0, 3.0]
    with pytest.raises(NoPermissionError):
        settings.redis.client().set("{tenuto.x}", "1")


async def test_so_does_an_asyncio_server(settings: Settings) -> None:
    async with tenuto.connect_async(settings=settings) as client:
        request = tenuto.Request("r", "u1", "q1", NOW)
        matrix = await client.read(request, ["i0", "i1", "i2"], timeout_ms=5_000)
    assert matrix.column("item_clicks_1h").tolist() == [1.0, 2.0, 3.0]


def test_user_and_password_may_also_be_in_the_url(settings: Settings, guarded: Guarded) -> None:
    url = guarded.url.replace("://", "://ranker:rank%402%3A%25@")
    connection = guarded.as_user("ranker", url=url, username="", password="")
    in_url = msgspec.structs.replace(settings, redis=connection)
    with tenuto.connect(settings=in_url) as client:
        assert read(client) == [1.0, 2.0, 3.0]


def test_a_certificate_of_the_rankers_own_is_named_in_the_url(
    settings: Settings, guarded: Guarded
) -> None:
    admin, own = guarded.as_user("default").client(), guarded.certificates
    query = f"?ssl_certfile={own.certificate('client')}&ssl_keyfile={own.key('client')}"
    connection = guarded.as_user("ranker", url=guarded.url + query)
    admin.config_set("tls-auth-clients", "yes")
    try:
        with (
            tenuto.connect(settings=settings) as without,
            pytest.raises(tenuto.StoreUnavailableError),
        ):
            read(without)
        shown = msgspec.structs.replace(settings, redis=connection)
        with tenuto.connect(settings=shown) as client:
            assert read(client) == [1.0, 2.0, 3.0]
    finally:
        admin.config_set("tls-auth-clients", "optional")


def test_reads_share_one_tls_connection(settings: Settings, guarded: Guarded) -> None:
    # What TLS 1.3 sends after its handshake must not be taken for a server's goodbye.
    watch = guarded.as_user("default").client()

    def connections() -> int:
        info: Any = watch.info("stats")
        return int(info["total_connections_received"])

    with tenuto.connect(settings=settings) as client:
        before = connections()
        for _ in range(20):
            read(client)
        assert connections() == before + 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": "guessed"}, "invalid username-password pair"),
        ({"ssl_ca_certs": ""}, "certificate verify failed"),
    ],
)
def test_a_read_that_is_refused_says_why(
    changes: dict[str, str], reason: str, settings: Settings, guarded: Guarded
) -> None:
    wrong = msgspec.structs.replace(settings, redis=guarded.as_user("ranker", **changes))
    with (
        tenuto.connect(settings=wrong) as client,
        pytest.raises(tenuto.StoreUnavailableError, match=reason),
    ):
        read(client)


def test_the_feature_worker_counts_as_a_user_without_dangerous_commands(
    env: dict[str, str], guarded: Guarded, tmp_path: Path
) -> None:
    ranker = msgspec.structs.replace(set_up(env), redis=guarded.as_user("ranker"))
    with (
        tenuto.connect(settings=ranker) as client,
        Workers(env, tmp_path) as workers,
    ):
        workers.start("features", ["worker", "features", "--reset"])
        give_up_s = time.monotonic() + 60
        now_ms = time.time_ns() // 1_000_000
        fields = {"request_id": "r", "user_id": "u", "query": "q", "item_id": "new", "position": 0}
        client.send("clicks", fields | {"ts": now_ms})
        client.flush()
        request = tenuto.Request("r", "u", "q", now_ms + 1_000)
        while client.read(request, ["new"], timeout_ms=5_000).column("item_clicks_1h") != [1.0]:
            assert time.monotonic() < give_up_s, (tmp_path / "features.log").read_text()
            time.sleep(0.05)
        workers.check()
        assert workers.all_restarts() == {"features": 0}
    looked = command(env, "inspect", "item", "new")
    assert (looked.exit_code, "new" in looked.output) == (0, True)


OTHER_USER = "wants another user or password: see redis.username and redis.password"
UNTRUSTED = "its certificate is not trusted: "


@pytest.mark.parametrize(
    ("host", "changes", "code", "says"),
    [
        ("127.0.0.1", {"PASSWORD": "guessed"}, 2, OTHER_USER),
        ("127.0.0.1", {"USERNAME": "", "PASSWORD": ""}, 2, OTHER_USER),
        ("127.0.0.1", {"SSL_CA_CERTS": ""}, 3, UNTRUSTED),
        ("127.0.0.1", {"SSL_CA_CERTS": "other"}, 3, UNTRUSTED),
        ("localhost", {}, 3, UNTRUSTED + "Hostname mismatch"),
    ],
)
def test_a_command_that_is_refused_says_it_in_one_line(
    host: str,
    changes: dict[str, str],
    code: int,
    says: str,
    env: dict[str, str],
    guarded: Guarded,
) -> None:
    if changes.get("SSL_CA_CERTS"):
        changes = {"SSL_CA_CERTS": guarded.certificates.other_ca}
    url = guarded.url.replace("127.0.0.1", host)
    wrong = env | {f"TENUTO_REDIS__{name}": value for name, value in changes.items()}
    wrong["TENUTO_REDIS__URL"] = url
    refused = command(wrong, "worker", "features")
    (line,) = refused.stderr.splitlines()
    assert (refused.exit_code, refused.stdout) == (code, ""), line
    assert line.startswith(f"tenuto: redis at {url[9:-2]}: {says}")


def test_a_user_without_the_right_is_told_which(env: dict[str, str], guarded: Guarded) -> None:
    guarded.as_user("default").client().execute_command(
        "ACL", "SETUSER", "nobody", "on", ">none", "~*", "+get"
    )
    wrong = env | {"TENUTO_REDIS__USERNAME": "nobody", "TENUTO_REDIS__PASSWORD": "none"}
    refused = command(wrong, "inspect", "item", "i1")
    (line,) = refused.stderr.splitlines()
    assert (refused.exit_code, "'ping' command: see redis.username" in line) == (2, True)
