"""Films with alpha, for browsers and for editors, with sound and times as any other; odd sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p4d_jax.imaging.sound import has_sound
from p4d_jax.imaging.video import open_video
from p4d_jax.imaging.writing import PRORES_4444, VP9_ALPHA, Encoding, save_video

EDGES = [0.0, 0.1, 0.14, 0.34, 0.5]


def discs() -> list[np.ndarray]:
    """A red disc that travels before nothing, (48, 64, 4)."""
    rows, columns = np.mgrid[:48, :64]
    pictures = []
    for place in (20, 26, 32, 38):
        alpha = 255 * (np.hypot(rows - 24, columns - place) < 14)
        pictures.append(np.stack([np.full_like(alpha, 200), alpha * 0 + 30, alpha * 0, alpha], axis=-1))
    return [picture.astype(np.uint8) for picture in pictures]


@pytest.mark.parametrize("encoding", [VP9_ALPHA, PRORES_4444], ids=lambda one: one.codec)
def test_alpha_colours_times_and_sound_survive(encoding: Encoding, tmp_path):
    path, pictures = (tmp_path / "alpha").with_suffix(encoding.suffix), discs()
    tone = tmp_path / "tone.mp4"
    save_tone(tone)
    save_video(path, pictures, 8.0, EDGES, tone, encoding)
    seen = list(open_video(path))
    assert len(seen) == 4 and has_sound(path)
    np.testing.assert_allclose([frame.time - seen[0].time for frame in seen], EDGES[:4], atol=0.0015)
    assert sum(frame.duration for frame in seen) == pytest.approx(0.5, abs=0.05)
    for frame, picture in zip(seen, pictures, strict=True):
        assert frame.picture.shape == picture.shape
        inside = picture[..., 3] > 0
        far = np.abs(frame.picture[..., 3].astype(int) - picture[..., 3])
        assert far.mean() < 4
        assert np.abs(frame.picture[inside][:, :3].astype(int) - picture[inside][:, :3]).mean() < 12


def save_tone(path: Path) -> None:
    """A film of a second with sound."""
    import av

    with av.open(str(path), "w") as film:
        video, sound = film.add_stream("mpeg4", 10), film.add_stream("aac", rate=48_000)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for _ in range(10):
            film.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        wave = np.sin(np.arange(48_000) * 0.06).astype(np.float32)[None]
        film.mux(sound.encode(audio_frame(wave)))
        for stream in (video, sound):
            film.mux(stream.encode(None))


def audio_frame(wave: np.ndarray):
    import av

    frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 48_000, 0
    return frame


def test_an_odd_size_grows_by_its_border(tmp_path):
    picture = np.full((31, 33, 3), 90, np.uint8)
    save_video(tmp_path / "odd.mp4", [picture] * 2)
    (first, _) = open_video(tmp_path / "odd.mp4")
    assert first.picture.shape == (32, 34, 3) and np.abs(first.picture.astype(int) - 90).max() < 4
