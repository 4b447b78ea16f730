"""The sound of a film, in step with its pictures: time 0 is when the first picture appears.

Players start sound and pictures by the stamps of the file; a phone's sound often begins a little before the
first picture, or after it. Blocks are (2, N) float32 in [-1, 1], left and right, `RATE` samples a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

RATE = 48_000  # samples a second, which all encoders of sound here take
GAP = RATE // 20  # samples; what stamps are off by less is rounding


def has_sound(film: str | Path) -> bool:
    """Whether a file is a film with sound; a folder, a photo or a motion file is not."""
    if not Path(film).is_file():
        return False
    try:
        with av.open(str(film), metadata_errors="ignore") as container:
            streams = container.streams
            return bool(streams.video) and bool(streams.audio) and streams.audio[0].codec_context is not None
    except (av.FFmpegError, OSError, ValueError):
        return False


def read_sound(film: str | Path) -> Iterator[np.ndarray]:
    """Blocks (2, N) of a film's first sound from its first picture on, one after another without gaps.

    Where the file has none for a while there is silence; damaged sound ends where it does.
    """
    start, done = _first_picture(film), 0
    resampler = av.AudioResampler("fltp", "stereo", RATE)
    with av.open(str(film), metadata_errors="ignore") as container:
        for frame in _decode(container):
            place = done if frame.time is None else round((frame.time - start) * RATE)
            frame.pts = None
            resampled = [part.to_ndarray() for part in resampler.resample(frame)]
            block = np.concatenate(resampled, axis=1) if resampled else np.zeros((2, 0), np.float32)
            if place - done > GAP or (done == 0 and place > 0):
                block = np.concatenate([np.zeros((2, place - done), np.float32), block], axis=1)
            elif done == 0:  # before the first picture
                block = block[:, -place:]
            if block.shape[1]:
                done += block.shape[1]
                yield block


def _decode(container) -> Iterator[av.AudioFrame]:
    try:
        yield from container.decode(container.streams.audio[0])
    except av.FFmpegError:
        return


def _first_picture(film: str | Path) -> float:
    """Seconds of the file's clock at which the first picture appears."""
    try:
        with av.open(str(film), metadata_errors="ignore") as container:
            cover = av.stream.Disposition.attached_pic
            moving = next(one for one in container.streams.video if not one.disposition & cover)
            return next(container.decode(moving)).time or 0.0
    except (av.FFmpegError, StopIteration):
        return 0.0
