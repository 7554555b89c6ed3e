"""Where settings come from, which one wins, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenuto.features.connection import RedisConnection, without_password
from tenuto.settings import Loaded, Settings, SettingsError, environment, load

SECRET = "correct-horse"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "tenuto.toml") -> Path:
    Path(name).write_text(text)
    return Path(name)


def shown(loaded: Loaded, key: str) -> tuple[Any, str]:
    return next((v.value, v.origin) for v in loaded.values() if v.key == key)


def refusal(toml: str = "", env: dict[str, str] | None = None, **flags: Any) -> str:
    """The message of a load that must fail, which is one line."""
    file = written(toml) if toml else None
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    with pytest.raises(SettingsError) as caught:
        load(file, env or {}, dotted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_any_source_every_value_is_a_default() -> None:
    loaded = load(env={})
    assert loaded.settings == Settings()
    assert {value.origin for value in loaded.values()} == {"default"}


def test_a_flag_wins_over_the_environment_which_wins_over_the_file() -> None:
    written('[kafka]\nbootstrap = "file:1"\npartitions = 7\n[redis]\nurl = "redis://file:1"\n')
    env = {"TENUTO_KAFKA__BOOTSTRAP": "env:2", "TENUTO_REDIS__URL": "redis://env:2"}
    loaded = load(env=env, flags={"redis.url": "redis://flag:3", "kafka.partitions": None})
    assert shown(loaded, "kafka.partitions") == (7, "tenuto.toml")
    assert shown(loaded, "kafka.bootstrap") == ("env:2", "$TENUTO_KAFKA__BOOTSTRAP")
    assert shown(loaded, "redis.url") == ("redis://flag:3", "--redis")


def test_the_file_in_the_working_directory_is_not_read_when_another_is_named() -> None:
    written("namespace = 'here'")
    other = written("namespace = 'there'", "other.toml")
    assert load(other, {}).settings.namespace == "there"


def test_text_of_the_environment_becomes_the_type_of_its_setting() -> None:
    env = {
        "TENUTO_KAFKA__PARTITIONS": "6",
        "TENUTO_WORKERS__LIVE": "false",
        "TENUTO_CAPTURE__SAMPLE_RATE": "0.25",
    }
    settings = load(env=env).settings
    assert settings.kafka.partitions == 6
    assert settings.workers.live is False
    assert settings.capture.sample_rate == 0.25


def test_durations_become_the_rules_of_time() -> None:
    rules = load(env={"TENUTO_TIME__LATENESS": "1h"}).settings.time.rules()
    assert (rules.future_ms, rules.lateness_ms) == (5_000, 3_600_000)


def test_variables_of_others_are_not_looked_at() -> None:
    assert load(env={"KAFKA_HOME": "/x", "TENUTOX_A": "1"}).settings == Settings()


def test_an_unknown_key_is_named_with_its_origin_and_its_neighbours() -> None:
    message = refusal('[kafka]\nboostrap = "a:1"\n')
    assert message.startswith("kafka.boostrap (tenuto.toml): no such setting: there are ")
    assert "kafka.bootstrap" in message


def test_an_unknown_variable_is_refused_too() -> None:
    assert "$TENUTO_KAFKA__BROKERS" in refusal(env={"TENUTO_KAFKA__BROKERS": "a:1"})


def test_a_section_that_is_a_value_is_refused() -> None:
    assert refusal("kafka = 3\n").startswith("kafka (tenuto.toml): no such setting")


@pytest.mark.parametrize(
    ("toml", "begins"),
    [
        ("[kafka]\npartitions = 'many'\n", "kafka.partitions (tenuto.toml): 'many': expected"),
        ("[kafka]\npartitions = 0\n", "kafka.partitions (tenuto.toml): 0: expected `int` >= 1"),
        ("[kafka]\nbootstrap = 'a:x'\n", "kafka.bootstrap (tenuto.toml): 'a:x': must be host:port"),
        ("[kafka]\nbootstrap = ''\n", "kafka.bootstrap (tenuto.toml): '': must be host:port"),
        ("[kafka]\nretention = 'long'\n", "kafka.retention (tenuto.toml): 'long': write for"),
        ("[kafka]\nsecurity_protocol = 'TLS'\n", "kafka.security_protocol (tenuto.toml): 'TLS': "),
        ("[kafka]\nsasl_mechanism = 'MD5'\n", "kafka.sasl_mechanism (tenuto.toml): 'MD5': must be"),
        ("[kafka]\nssl_cafile = '/no.pem'\n", "kafka.ssl_cafile (tenuto.toml): '/no.pem': needs"),
        ("[kafka]\nsasl_username = 'u'\n", "kafka.sasl_username (tenuto.toml): 'u': needs a"),
        ("[time]\nfuture = 5\n", "time.future (tenuto.toml): 5: expected `str`"),
        ("[time]\nslack = '5 weeks'\n", "time.slack (tenuto.toml): '5 weeks': write for example"),
        ("[limits]\nevent_bytes = -1\n", "limits.event_bytes (tenuto.toml): -1: expected"),
        ("[workers]\nmetrics_port = 70000\n", "workers.metrics_port (tenuto.toml): 70000: expec"),
        ("[workers]\nsession_timeout_s = nan\n", "workers.session_timeout_s (tenuto.toml): nan: "),
        ("[capture]\nsample_rate = 0.0\n", "capture.sample_rate (tenuto.toml): 0.0: expected"),
        ("[redis]\nurl = 'localhost:6379'\n", "redis.url (tenuto.toml): 'localhost:6379': must be"),
        ("[redis]\nbuckets = 0\n", "redis.buckets (tenuto.toml): 0: expected `int` >= 1"),
        ("[redis]\nbuckets = 9999\n", "redis.buckets (tenuto.toml): 9999: expected `int` <= 1024"),
        (
            "[redis]\ncluster = true\nurl = 'unix://h/s'\n",
            "redis.url (tenuto.toml): 'unix://h/s': must",
        ),
        (
            "[redis]\ncluster = true\nurl = 'redis://h:1/2'\n",
            "redis.url (tenuto.toml): 'redis://h:1/2': m",
        ),
        ("[redis]\nurl = 'redis://h:x'\n", "redis.url (tenuto.toml): 'redis://h:x': its port"),
        ("[redis]\nssl_ca_certs = 'ca.pem'\n", "redis.ssl_ca_certs (tenuto.toml): 'ca.pem': needs"),
        ("[stack]\nkind = 'docker'\n", "stack.kind (tenuto.toml): 'docker': must be"),
        ("namespace = 'a b'\n", "namespace (tenuto.toml): 'a b': must be at most 100 letters"),
        ("app = 'ranking'\n", "app (tenuto.toml): 'ranking': must be module:object"),
        ("app = 'ranking:'\n", "app (tenuto.toml): 'ranking:': must be module:object"),
        ("app = \n", "tenuto.toml: not TOML: "),
    ],
)
def test_a_wrong_value_is_named_with_its_origin_and_what_would_be_right(
    toml: str, begins: str
) -> None:
    assert refusal(toml).startswith(begins)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"ssl_cafile": "none.pem"}, "must be a PEM file: there is none"),
        ({"ssl_cafile": "page.html"}, "must be a PEM file with certificates: it cannot be read"),
        ({"ssl_certfile": "page.html"}, "must have, as PEM, a certificate and"),
    ],
)
def test_certificates_that_are_none_are_refused_before_a_server_is_asked(
    files: dict[str, str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text("<html>")
    ((name, file),) = files.items()
    toml = f"[kafka]\nsecurity_protocol = 'SSL'\n{name} = '{tmp_path / file}'\n"
    assert f"kafka.{name} (tenuto.toml): '{tmp_path / file}': {expected}" in refusal(toml)


def test_authorities_of_a_redis_that_are_no_pem_are_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html>")
    toml = f"[redis]\nurl = 'rediss://h'\nssl_ca_certs = '{page}'\n"
    assert f"redis.ssl_ca_certs (tenuto.toml): '{page}': must be a PEM file" in refusal(toml)


def test_sasl_without_a_password_is_refused() -> None:
    toml = "[kafka]\nsecurity_protocol = 'SASL_SSL'\nsasl_username = 'u'\n"
    expected = "kafka.sasl_password (default): '': must be given with SASL_SSL"
    assert refusal(toml) == expected


def test_a_wrong_flag_is_named_as_it_was_typed() -> None:
    assert refusal(stack__data_dir=3).startswith("stack.data_dir (--data-dir): 3: ")


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read: "):
        load(Path(name), {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("redis.url", f"redis://u:{SECRET}@h:1/0"),
        ("redis.url", f"redis://:{SECRET}@h"),
        ("redis.url", f"redis://h/0?password={SECRET}"),
        ("redis.url", f"redis://u:/{SECRET}@h"),
        ("redis.password", SECRET),
        ("kafka.sasl_password", SECRET),
    ],
)
def test_secrets_are_hidden(key: str, value: str) -> None:
    value_shown, origin = shown(load(env={}, flags={key: value}), key)
    assert "***" in value_shown
    assert SECRET not in value_shown
    assert origin.startswith("--")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("redis.url", f"http://u:{SECRET}@h"),
        ("redis.url", f"redis://u:{SECRET}@h:x"),
        ("redis.password", [SECRET]),
    ],
)
def test_an_error_shows_no_secret(key: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        load(env={}, flags={key: value})
    assert SECRET not in str(caught.value)


words = st.text("abcXYZ019-_", min_size=1)


@given(user=words, password=words, host=st.sampled_from(["h", "10.0.0.1", "[::1]"]))
def test_a_printed_url_keeps_everything_but_the_password(
    user: str, password: str, host: str
) -> None:
    url = f"redis://{user}:{password}@{host}:6379/3"
    assert without_password(url) == f"redis://{user}:***@{host}:6379/3"


def test_a_child_process_gets_the_same_settings_whatever_its_file_says() -> None:
    flags = {"workers.live": False, "kafka.partitions": 24, "redis.url": "redis://h:1/2"}
    settings = load(env={}, flags=flags).settings
    written("[kafka]\npartitions = 3\n[workers]\nlive = true\n")
    assert load(env=environment(settings)).settings == settings


def test_redis_options_are_those_of_its_client() -> None:
    connection = RedisConnection(url="redis://h:1/2", username="u", password="p")
    with connection.client() as client:
        options = client.connection_pool.connection_kwargs
    assert (options["host"], options["username"], options["password"]) == ("h", "u", "p")
