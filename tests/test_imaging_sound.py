"""The sound of a film in another one: a click where a picture turns white stays there."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from p4d_jax.imaging.sound import RATE, has_sound, read_sound
from p4d_jax.imaging.writing import save_video

FLASH = 5  # the picture that is white, with a click as it appears
EDGES = np.cumsum([0.0, *[0.04, 0.1, 0.03, 0.07, 0.06] * 2])  # as a phone records, at a rate that varies


def film_with_click(path: Path, begins: float) -> Path:
    """A film of two sounds' length of which the sound begins so many seconds after the first picture."""
    with av.open(str(path), "w") as film:
        video = film.add_stream("mpeg4", 1000)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        video.codec_context.time_base = tick = Fraction(1, 1000)
        sound = film.add_stream("pcm_s16le", rate=44_100, layout="mono")
        origin = max(0.0, -begins)  # stamps begin with what comes first
        for index, time in enumerate(EDGES[:-1]):
            picture = np.full((32, 32, 3), 255 * (index == FLASH), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round((time + origin) * 1000), tick
            film.mux(video.encode(frame))
        film.mux(video.encode(None))
        samples = np.zeros((1, 44_100), np.int16)
        samples[:, round((EDGES[FLASH] - begins) * 44_100) :][:, :200] = 20_000
        block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        block.sample_rate, block.time_base = 44_100, Fraction(1, 44_100)
        block.pts = round((begins + origin) * 44_100)
        film.mux(sound.encode(block))
        film.mux(sound.encode(None))
    return path


def click(film: Path) -> float:
    """Seconds after the first picture at which the sound is loud."""
    sound = np.concatenate(list(read_sound(film)), axis=1)
    return int(np.argmax(np.abs(sound).max(0) > 0.2)) / RATE


@pytest.mark.parametrize("begins", [0.0, 0.15, -0.15])
def test_sound_stays_with_its_picture_and_ends_with_the_film(begins, tmp_path):
    driver, made = film_with_click(tmp_path / "driver.mkv", begins), tmp_path / "made.mp4"
    assert has_sound(driver) and click(driver) == pytest.approx(EDGES[FLASH], abs=0.002)
    save_video(made, [np.zeros((64, 64, 3), np.uint8)] * 10, edges=EDGES, sound=driver)
    assert click(made) == pytest.approx(EDGES[FLASH], abs=0.005)
    sound = np.concatenate(list(read_sound(made)), axis=1)
    assert sound.shape[1] / RATE == pytest.approx(EDGES[-1], abs=0.025)  # AAC's blocks have 21 ms


def test_what_has_no_sound(tmp_path):
    save_video(tmp_path / "silent.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    (tmp_path / "notes.txt").write_text("hello")
    assert not any(map(has_sound, (tmp_path, tmp_path / "silent.mp4", tmp_path / "notes.txt")))
