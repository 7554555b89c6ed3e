"""Frames come out whole and in order, however the bytes come in."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenuto.local.broker.framing import FrameError, Frames


def feed(frames: Frames, data: bytes) -> None:
    """Write into the space that it offers, as a socket does: as much as there is room for."""
    while data:
        with frames.space() as space:
            n_bytes = min(len(space), len(data))
            space[:n_bytes] = data[:n_bytes]
        frames.received(n_bytes)
        data = data[n_bytes:]


def taken(frames: Frames) -> list[bytes]:
    found = []
    while (frame := frames.next()) is not None:
        found.append(frame)
    return found


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.integers(60_000, 200_000).map(bytes))),
    st.lists(st.integers(1, 150_000), min_size=1),
    st.booleans(),
)
def test_frames_are_those_that_were_sent(sent: list[bytes], cuts: list[int], late: bool) -> None:
    frames = Frames(max_bytes=1_000_000)
    stream = b"".join(struct.pack(">i", len(frame)) + frame for frame in sent)
    found: list[bytes] = []
    at = 0
    while at < len(stream):
        cut = cuts[at % len(cuts)]
        feed(frames, stream[at : at + cut])
        at += cut
        if not late:
            found += taken(frames)
    assert found + taken(frames) == sent


def test_whether_a_whole_frame_waits_is_told() -> None:
    frames = Frames(max_bytes=100)
    feed(frames, b"\0\0\0\2a")
    assert not frames.is_full
    feed(frames, b"b\0\0")
    assert frames.is_full
    assert frames.next() == b"ab"
    assert not frames.is_full


@pytest.mark.parametrize("length", [-1, 101, 2**31 - 1])
def test_a_length_that_cannot_be_is_an_error_before_anything_is_kept(length: int) -> None:
    frames = Frames(max_bytes=100)
    feed(frames, struct.pack(">i", length))
    with pytest.raises(FrameError):
        frames.next()
