"""An application whose samples are final within minutes, for runs that close the loop."""

from __future__ import annotations

from tenuto.platform import Platform
from tenuto.presets import video
from tenuto.snapshot.labels import SampleStream
from tenuto.trainer.tasks import Task

clicked, converted = video.clicked.within("2m"), video.converted.within("2m")
stream = SampleStream("default", [clicked, converted], impression_window="1m")
app = Platform(
    "loop",
    events=video.events,
    features=video.small,
    samples=[stream],
    tasks=[Task("ctr", clicked), Task("cvr", converted, given="ctr", joint="ctcvr", prior=0.5)],
)
