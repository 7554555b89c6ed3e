"""When a snapshot's labels cannot change any more, by the arrivals that a recorded log shows."""

from __future__ import annotations

from collections.abc import Mapping

from tenuto.snapshot.audit.declared import Declared
from tenuto.snapshot.audit.judging import JudgedEvent, JudgedSnapshot, JudgedTopic
from tenuto.snapshot.audit.log import RecordedLog
from tenuto.snapshot.labels import SampleStream


class Finality:
    """What is final for one sample stream, and what the log still shows.

    Args:
        declared: of the platform.
        stream: whose labels are waited for.
        log: as recorded.
        events: its event topics, judged.
    """

    def __init__(
        self,
        declared: Declared,
        stream: SampleStream,
        log: RecordedLog,
        events: Mapping[str, JudgedTopic[JudgedEvent]],
    ) -> None:
        self._rules = declared.rules
        self._names = sorted(declared.read_by(stream))
        self._reach_ms = {name: declared.reach_ms(stream, name) for name in self._names}
        self._log = log
        self._events = events

    def waits_for(self, snapshot: JudgedSnapshot) -> str:
        """The label topic that is not read far enough by the log's end; "" when it is final."""
        for name in self._names:
            arrivals = self._events[name].arrivals[snapshot.partition]
            needed = snapshot.fields["request_ts"] + self._reach_ms[name] + self._rules.lateness_ms
            reached = arrivals[-1][1] if arrivals else 0
            if reached <= needed:
                return f"{name}[{snapshot.partition}] is read to arrival {reached}, not {needed}"
        return ""

    def forgotten(self, snapshot: JudgedSnapshot) -> bool:
        """Whether the log has lost events that could be labels of this snapshot."""
        oldest = snapshot.fields["request_ts"] - self._rules.future_ms
        for name in self._names:
            part = self._log.topics[name].partitions[snapshot.partition]
            # What came before the first record arrived before it, too early for this request.
            known = part.start == 0 or (part.records and part.records[0].timestamp_ms < oldest)
            if not known:
                return True
        return False

    def ended(self, partition: int) -> bool:
        """Whether every label topic holds a replay's end mark."""
        return all(self._events[name].ended[partition] for name in self._names)
