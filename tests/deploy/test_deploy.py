"""The image, the compose file and the alert rules, as far as they can be checked without Docker."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tenuto.cli import main
from tenuto.settings import load

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())
OURS = {name: s for name, s in COMPOSE["services"].items() if "build" in s}
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


def interpolated(text: str) -> str:
    """``${NAME:-default}`` where nobody has set NAME."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def documented() -> set[str]:
    rows = re.findall(
        r"^\| `(tenuto_\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.M
    )
    names = {name for name, _ in rows}
    for name, kind in rows:
        if kind == "histogram":
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def image_environment() -> dict[str, str]:
    """The settings that the image brings."""
    text = (ROOT / "Dockerfile").read_text()
    return dict(re.findall(r"(TENUTO_[A-Z_]+)=([\w./]+) ?\\?$", text, re.M))


@pytest.mark.parametrize("service", OURS)
def test_every_command_exists(service: str) -> None:
    result = CliRunner().invoke(main, [*OURS[service]["command"], "--help"])
    assert (result.exit_code, result.exception) == (0, None), result.output


def test_the_commands_of_the_documentation_exist() -> None:
    text = (ROOT / "docs/production.md").read_text()
    commands = set(re.findall(r"^    tenuto ([^\n#]+)", text, re.M))
    assert commands
    for command in commands:
        words = [word for word in shlex.split(command) if word != "…"]
        result = CliRunner().invoke(main, [*words, "--help"])
        assert (result.exit_code, result.exception) == (0, None), command


@pytest.mark.parametrize("service", OURS)
def test_every_setting_exists_and_is_legal(service: str) -> None:
    env = {name: interpolated(str(value)) for name, value in OURS[service]["environment"].items()}
    settings = load(env={name: value for name, value in env.items() if value}).settings
    assert settings.kafka.bootstrap == "kafka:9092"
    assert settings.redis.url == "redis://redis:6379/0"


def test_every_role_runs_and_is_restarted_whenever_it_ends() -> None:
    assert set(OURS) == {"topics", "features", "join", "sink", "trainer"}
    for name, service in COMPOSE["services"].items():
        assert service["restart"] == ("no" if name == "topics" else "always"), name


def test_a_model_has_one_trainer() -> None:
    # Compose refuses to scale a service whose container has a name.
    assert OURS["trainer"]["container_name"]
    assert [name for name, service in OURS.items() if "container_name" in service] == ["trainer"]


def test_images_that_differ_have_names_that_differ() -> None:
    images: dict[str, str] = {}
    for service in OURS.values():
        extras = service["build"].get("args", {}).get("EXTRAS", "workers")
        assert images.setdefault(interpolated(service["image"]), extras) == extras
    assert images == {"tenuto": "workers", "tenuto-trainer": "workers,trainer"}


def test_what_is_waited_for_can_happen() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "test" in services[name]["healthcheck"]
            else:
                assert wait["condition"] == "service_completed_successfully"
                assert services[name]["restart"] == "no"


def test_volumes_and_mounted_files_are_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / "deploy" / source).is_file()
            else:
                assert source in COMPOSE["volumes"]


def test_what_a_service_writes_is_on_a_volume_that_the_image_knows() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    folders = set(re.findall(r"^VOLUME (.+)$", dockerfile, re.M)[0].split())
    made = re.findall(r"install --directory --owner tenuto --group tenuto (.+)$", dockerfile, re.M)
    assert folders <= set(made[0].split())
    mounted = {v.split(":")[1] for s in OURS.values() for v in s.get("volumes", [])}
    assert mounted == folders
    settings = load(env=image_environment()).settings
    assert {settings.sink.dir, settings.trainer.store} == folders


def test_nothing_is_published_beyond_this_machine() -> None:
    for service in COMPOSE["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_redis_never_evicts_and_keeps_its_log() -> None:
    command = " ".join(COMPOSE["services"]["redis"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


def test_prometheus_scrapes_each_worker_where_the_image_serves() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    port = int(re.findall(r"TENUTO_WORKERS__METRICS_PORT=(\d+)", dockerfile)[0])
    scraped = {
        (name, target["port"])
        for job in PROMETHEUS["scrape_configs"]
        for target in job["dns_sd_configs"]
        for name in target["names"]
    }
    assert scraped == {(name, port) for name in OURS if name != "topics"}
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_name_documented_metrics_and_scraped_jobs(rule: dict[str, Any]) -> None:
    expression = rule["expr"]
    names = set(re.findall(r"\b(?:tenuto|process)_\w+", expression))
    assert names - {"process_start_time_seconds"} <= documented()
    assert names or "up{" in expression
    jobs = {job["job_name"] for job in PROMETHEUS["scrape_configs"]}
    for text in re.findall(r'job=~?"([^"]+)"', expression):
        assert set(text.split("|")) <= jobs
    assert expression.count("(") == expression.count(")")
    assert set(rule["annotations"]) == {"summary", "mend"}
    assert rule["labels"]["severity"] in ("page", "warn")


def test_the_image_holds_every_package_and_runs_as_nobody_in_particular() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\w+)/ \1/$", text, re.M))
    links = {path.name for path in (ROOT / "tenuto").iterdir() if path.is_symlink()}
    assert copied == links | {"tenuto"}
    assert re.search(r"^USER tenuto$", text, re.M)
    assert 'ENTRYPOINT ["tenuto"]' in text
    assert load(env=image_environment()).settings.workers.metrics_host == "0.0.0.0"
    assert re.findall(r"^ARG EXTRAS=(\S+)$", text, re.M) == ["workers"]
    project = (ROOT / "pyproject.toml").read_text()
    for extra in ("workers", "trainer"):
        assert f"\n{extra} = [" in project
