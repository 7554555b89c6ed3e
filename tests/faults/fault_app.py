"""The applications that the fault suite runs, and what is made to fail inside their workers.

Workers import their application, so what cannot be done to a process from outside (a clock that is
wrong, a disk that is full, a death between two file operations) is installed here, and only in a
process that is told to: ``FAULTS_DIR`` names a folder with one JSON file for each kind of worker.
"""

from __future__ import annotations

import os

from fault_inside import install

from tenuto.platform import Platform
from tenuto.presets import video
from tenuto.snapshot.labels import SampleStream, first
from tenuto.trainer.tasks import Task

clicked = video.clicked.within("2m")
converted = video.converted.within("2m")
app = Platform(
    "faults",
    events=video.events,
    features=video.small,
    samples=[
        SampleStream(
            "default",
            [clicked, converted, video.played.within("2m"), video.liked.within("2m")],
            impression_window="1m",
        )
    ],
    tasks=[Task("ctr", clicked), Task("cvr", converted, given="ctr", joint="ctcvr", prior=0.5)],
)

live_click = first(video.clicks, "clicked", window="2s", delay="click_delay_ms")
live = Platform(
    "faultslive",
    events=video.events,
    features=video.small,
    samples=[SampleStream("default", [live_click], impression_window="2s")],
)
"""Samples become final within seconds: for runs whose time is the wall clock's."""

if os.environ.get("FAULTS_DIR"):
    install()
