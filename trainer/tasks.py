"""What a ranker predicts: tasks on labels, declared with the application; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenuto.snapshot.labels import Label, SampleStream


@dataclass(frozen=True)
class Task:
    """One probability to predict for each shown item.

    A task ``given`` another is conditional on it and learnt through the product of the two, over
    all that was seen and not only over what was clicked: ESMM (Ma et al., *Entire Space
    Multi-Task Model*, 2018), which has no sample selection bias.

    Args:
        name: of the probability, such as ``"ctr"``.
        label: a ``first`` label: whether it happened.
        given: name of the task that must have happened first.
        joint: name of the product with it; ``<given>_<name>`` by default.
        weight: of its loss; fixed.
        prior: the probability that a fresh model predicts.

    Example:
        >>> from tenuto.presets.video import clicked, converted
        >>> Task("cvr", converted, given="ctr", joint="ctcvr").outputs
        ('cvr', 'ctcvr')
    """

    name: str
    label: Label
    given: str | None = None
    joint: str = ""
    weight: float = 1.0
    prior: float = 0.1

    def __post_init__(self) -> None:
        if self.label.kind != "first":
            raise ValueError(f"task {self.name!r}: label {self.label.name!r} is not a 0/1 label")
        if not 0.0 < self.prior < 1.0:
            raise ValueError(f"task {self.name!r}: prior {self.prior}: must be between 0 and 1")
        if not self.weight > 0.0:
            raise ValueError(f"task {self.name!r}: weight {self.weight}: must be > 0")
        if self.given is None and self.joint:
            raise ValueError(f"task {self.name!r}: joint={self.joint!r} needs given=")
        if self.given is not None and not self.joint:
            object.__setattr__(self, "joint", f"{self.given}_{self.name}")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the probabilities that it adds to a score."""
        return (self.name, self.joint) if self.joint else (self.name,)

    @property
    def learnt(self) -> str:
        """The probability that its loss and metrics are of: the joint one where it has one."""
        return self.joint or self.name


def fault(tasks: Sequence[Task], stream: SampleStream) -> str | None:
    """What is wrong with tasks on a sample stream, in a line; None where they fit."""
    outputs: list[str] = []
    roots = {task.name for task in tasks if task.given is None}
    for task in tasks:
        if task.label not in stream.labels:
            return (
                f"task {task.name!r}: label {task.label.name!r} is not among those of sample "
                f"stream {stream.name!r}"
            )
        if task.given is not None and task.given not in roots:
            known = ", ".join(sorted(roots - {task.name})) or "none"
            return (
                f"task {task.name!r}: given={task.given!r}: must be a task without given: {known}"
            )
        outputs += task.outputs
    doubled = sorted({name for name in outputs if outputs.count(name) > 1})
    return f"tasks: two probabilities are named {', '.join(doubled)}" if doubled else None
