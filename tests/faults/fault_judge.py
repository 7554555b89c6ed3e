"""The judge of a schedule: what its recorded log says must be, against what is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fault_servers import Servers

from tenuto.audit import audit_log, read_state, record_log
from tenuto.drive.run import RunOptions
from tenuto.platform import Platform
from tenuto.settings import Settings


@dataclass
class Verdict:
    """What the judge found wrong, and what it looked at."""

    failures: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def judge(
    settings: Settings,
    platform: Platform,
    options: RunOptions,
    servers: Servers,
) -> Verdict:
    """Judge a run that has ended, while its servers still run."""
    verdict = Verdict()
    log = record_log(platform, settings)
    files = {stream.name: options.samples_dir(stream.name) for stream in platform.samples}
    # The workers have ended: Redis stands still.
    state = read_state(platform, settings)
    findings = audit_log(platform, settings, log, files=files, state=state, strict=True)
    counts = findings.to_json()
    verdict.notes["checked"] = {name: one["checked"] for name, one in counts["checks"].items()}
    unverifiable = sum(findings.unverifiable.values())
    if unverifiable:
        verdict.notes["unverifiable"] = dict(findings.unverifiable)
    # Every check counts what it found: the first explained says what it is.
    told = {}
    for found in findings.shown:
        told.setdefault((found.kind, found.check), f"{found.where}: {found.text}")
    for (check, kind), n in sorted(findings.found.items()):
        if n:
            verdict.failures.append(f"audit: {n} {kind} {check}: {told.get((kind, check), '')}")
    if options.training is not None:
        _weights(verdict, settings, platform, options)
    return verdict


def _weights(verdict: Verdict, settings: Settings, platform: Platform, options: RunOptions) -> None:
    """Every checkpoint's weights are those of an uninterrupted run over the same samples."""
    from tenuto.relearning import relearn

    assert options.training is not None
    import msgspec

    trainer = msgspec.structs.replace(
        settings.trainer, store=str(options.training.store), mode=options.training.mode
    )
    compared = relearn(
        msgspec.structs.replace(settings, trainer=trainer), platform, options.out_dir
    )
    wrong = [one for one in compared if not one.equal]
    verdict.notes["checkpoints"] = len(compared)
    if wrong or not compared:
        verdict.failures.append(
            f"weights: {len(wrong)} of {len(compared)} checkpoints differ from an uninterrupted run"
        )
