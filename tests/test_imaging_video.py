"""Films and animations: every frame once, at its own time, as a player would show it."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from p4d_jax.errors import UserError
from p4d_jax.imaging import tone
from p4d_jax.imaging.video import (
    NO_DELAY,
    folder_pictures,
    frame_edges,
    is_video,
    open_video,
    read_ahead,
    sample_video,
)
from p4d_jax.imaging.writing import VideoWriter, save_video

TICK = Fraction(1, 90_000)
SIZE = 64, 48  # width, height
STEP = 20  # grey levels from each frame to the next


def grey(index: int) -> np.ndarray:
    """A frame that tells its number."""
    return np.full((SIZE[1], SIZE[0], 3), 20 + STEP * (index % 11), np.uint8)


def write_film(path: Path, times, codec="libx264", pixels="yuv420p", rate=25, tick=TICK, **options) -> Path:
    """A film whose frame i appears at times[i], seconds."""
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as file:
        stream = file.add_stream(codec, Fraction(rate).limit_denominator(60_000), options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, pixels
        stream.codec_context.time_base = tick
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(grey(index), format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def read(path: Path, **options) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the frames, by their grey, and the edges of their times."""
    frames = list(open_video(path, **options))
    greys = np.array([frame.picture[..., :3].mean() for frame in frames])
    return np.round((greys - 20) / STEP).astype(int), frame_edges([(f.time, f.duration) for f in frames])


even = lambda rate, count=10: np.arange(count) / rate
jittered = np.cumsum([0, 33, 34, 33, 50, 17, 33, 100, 33, 34]) / 1000  # as a phone records in dim light
slow = np.concatenate([even(24, 6), 0.25 + even(4, 4)])
pause = np.concatenate([even(30, 5), 3 + even(30, 5)])
ONE_PASS = {"bf": "0"}
ODDITIES = {
    "constant.mp4": dict(times=even(25)),
    "ntsc.mp4": dict(times=even(30000 / 1001), rate=30000 / 1001),
    "slow_motion.mp4": dict(times=even(240), rate=240),
    "one_a_second.mp4": dict(times=even(1), rate=1),
    "phone.mp4": dict(times=jittered),
    "phone_b_frames.mp4": dict(times=jittered, bf="3"),
    "phone.mov": dict(times=jittered, **ONE_PASS),
    "rate_drops.mp4": dict(times=slow, **ONE_PASS),
    "pause.mp4": dict(times=pause, **ONE_PASS),
    "late_start.mp4": dict(times=3 + even(25), **ONE_PASS),
    "before_zero.mkv": dict(times=even(25) - 0.2, tick=Fraction(1, 1000), **ONE_PASS),
    "milliseconds.mkv": dict(times=even(24), rate=24, tick=Fraction(1, 1000)),
    "phone.mkv": dict(times=jittered, tick=Fraction(1, 1000)),
    "phone.webm": dict(times=jittered, codec="libvpx", tick=Fraction(1, 1000)),
    "constant.avi": dict(times=even(25), codec="mpeg4", tick=Fraction(1, 25)),
    "transport.ts": dict(times=even(25)),
    "phone.ts": dict(times=1000 + jittered),
    "windows.wmv": dict(times=even(25), codec="wmv2", tick=Fraction(1, 25)),
    "program.mpg": dict(times=even(25), codec="mpeg2video", tick=Fraction(1, 25)),
    "old_phone.3gp": dict(times=even(15), codec="mpeg4", rate=15, tick=Fraction(1, 15)),
    "flash.flv": dict(times=even(25), codec="flv", tick=Fraction(1, 25)),
    "one_frame.mp4": dict(times=[0.0]),
}


@pytest.mark.parametrize("name", ODDITIES)
def test_each_frame_comes_once_at_its_own_time(name, tmp_path):
    times = np.asarray(ODDITIES[name]["times"])
    path = write_film(tmp_path / name, **ODDITIES[name])
    numbers, edges = read(path)
    assert is_video(path)
    np.testing.assert_array_equal(numbers, np.arange(len(times)) % 11)
    np.testing.assert_allclose(edges[:-1], times - times[0], atol=0.0011)
    frame = np.diff(times).max(initial=1 / 25)  # how long the last one lasts is the file's to say
    assert 0 < edges[-1] - edges[-2] <= frame + 0.0011


def test_time_stamps_that_stand_still_or_go_back_still_give_every_frame(tmp_path):
    path = tmp_path / "bare.h264"
    write_film(path, even(25))  # has no time stamps at all
    path = path.rename(tmp_path / "bare.m2v")
    numbers, edges = read(path)
    np.testing.assert_array_equal(numbers, np.arange(10))
    assert (np.diff(edges) > 0).all() and edges[-1] == pytest.approx(0.4, abs=0.04)


def test_reading_stops_after_so_many_frames(tmp_path):
    path = write_film(tmp_path / "phone.mp4", jittered)
    numbers, edges = read(path, max_frames=4)
    np.testing.assert_array_equal(numbers, np.arange(4))
    assert open_video(path, max_frames=4).length == 4
    np.testing.assert_allclose(edges[:-1], jittered[:4], atol=1e-4)


def test_what_is_written_lasts_as_long_as_it_should(tmp_path):
    edges = np.array([0, 0.1, 0.15, 1.15, 1.2, 2.0])
    with VideoWriter(tmp_path / "a.mp4", 25, edges) as film:
        for index in range(5):
            film.add(grey(index))
    numbers, again = read(tmp_path / "a.mp4")
    np.testing.assert_array_equal(numbers, np.arange(5))
    np.testing.assert_allclose(again, edges, atol=1e-4)
    assert open_video(tmp_path / "a.mp4").duration == pytest.approx(2.0, abs=1e-3)
    save_video(tmp_path / "b.mp4", map(grey, range(6)), fps=30000 / 1001)
    np.testing.assert_allclose(read(tmp_path / "b.mp4")[1], np.arange(7) * 1001 / 30000, atol=1e-4)
    with pytest.raises(ValueError, match="64x48"), VideoWriter(tmp_path / "c.mp4", 25) as film:
        film.add(grey(0))
        film.add(grey(0)[:, :32])


# Animations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_pictures_of_an_animation_have_their_own_delays(suffix, tmp_path):
    path, delays = tmp_path / f"moving{suffix}", [80, 40, 120, 3000]
    frames = [Image.fromarray(grey(index)) for index in range(4)]
    lossless = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=delays, **lossless)
    assert is_video(path)
    numbers, edges = read(path)
    np.testing.assert_array_equal(numbers, np.arange(4))
    np.testing.assert_allclose(np.diff(edges), np.array(delays) / 1000)
    video = open_video(path, max_frames=2)
    assert video.length == 2 and len(list(video)) == 2
    assert len(list(sample_video(path, 3))) == 3


def test_a_still_is_no_animation_and_no_delay_is_a_tenth_of_a_second(tmp_path):
    Image.fromarray(grey(0)).save(tmp_path / "still.png")
    assert not is_video(tmp_path / "still.png")
    frames = [Image.fromarray(grey(index)) for index in range(3)]
    frames[0].save(tmp_path / "fast.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(np.diff(read(tmp_path / "fast.gif")[1]), NO_DELAY)


# Colours and shape ------------------------------------------------------------------------------------------


def test_alpha_of_films_and_animations_is_kept_before_white(tmp_path):
    rgba = np.zeros((*grey(0).shape[:2], 4), np.uint8)
    rgba[..., 0], rgba[:, 32:, 3] = 200, 255  # the left half hides a red that must not show
    pictures = [Image.fromarray(rgba), Image.fromarray(np.roll(rgba, 4, axis=0) // 2 * 2)]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=40)
    with av.open(str(tmp_path / "a.webm"), "w") as file:
        stream = file.add_stream("libvpx-vp9", 25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuva420p"
        for _ in range(2):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        file.mux(stream.encode(None))
    for name in ("a.png", "a.webm"):
        picture = next(iter(open_video(tmp_path / name))).picture.astype(int)
        assert picture.shape == (48, 64, 4), name
        assert (picture[:, :28] == (255, 255, 255, 0)).all(), name
        assert np.abs(picture[:, 36:] - (200, 0, 0, 255)).max() < 12, name


def test_pixels_become_square_and_a_turned_film_upright(tmp_path):
    path = tmp_path / "narrow.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for _ in range(2):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey(3)[:, :32].copy(), format="rgb24")))
        file.mux(stream.encode(None))
    assert next(iter(open_video(path))).picture.shape == (48, 64, 3)
    # Both flips of the matrix of a track header of ISO 14496-12, and its quarter turns, on a stored film.
    stored = write_film(tmp_path / "stored.mov", even(25, 2)).read_bytes()
    unit = np.diag([1 << 16, 1 << 16, 1 << 30]).astype(">i4")
    where = stored.index(unit.tobytes(), stored.index(b"tkhd"))
    for (a, b, c, d), shape in {
        (0, 1, -1, 0): (64, 48),
        (-1, 0, 0, -1): (48, 64),
        (0, -1, 1, 0): (64, 48),
    }.items():
        matrix = unit.copy()
        matrix[:2, :2] = np.array([[a, b], [c, d]]) << 16
        turned = stored[:where] + matrix.tobytes() + stored[where + 36 :]
        (tmp_path / "turned.mov").write_bytes(turned)
        assert next(iter(open_video(tmp_path / "turned.mov"))).picture.shape == (*shape, 3)


def test_turns_are_those_that_ffmpeg_names():
    from p4d_jax.imaging.video import _turn

    picture = np.arange(6, dtype=np.uint8).reshape(2, 3)
    clockwise = np.array([[0, 1], [-1, 0]])  # right becomes down, down becomes left
    np.testing.assert_array_equal(_turn(picture, clockwise), np.rot90(picture, -1))
    np.testing.assert_array_equal(_turn(picture, -clockwise), np.rot90(picture))
    np.testing.assert_array_equal(_turn(picture, -np.eye(2, dtype=int)), picture[::-1, ::-1])
    np.testing.assert_array_equal(_turn(picture, np.diag([-1, 1])), picture[:, ::-1])
    np.testing.assert_array_equal(_turn(picture, np.eye(2, dtype=int)), picture)


def pq_of_light(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084's inverse EOTF, of diffuse whites."""
    power = (light * tone.DIFFUSE_WHITE / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def test_high_dynamic_range_looks_as_the_usual_range_does(tmp_path, rng):
    light = np.linspace(0, 1, 11)
    np.testing.assert_allclose(tone.pq_to_light(pq_of_light(light)), light, atol=1e-6)
    # BT.2408: HLG's 75 % is the diffuse white of PQ's 58 %
    np.testing.assert_allclose(tone.hlg_to_light(np.full(3, 0.75)), 1, atol=0.01)
    np.testing.assert_allclose(tone.pq_to_light(np.full(3, 0.58)), 1, atol=0.01)
    srgb = rng.uniform(20, 180, (12, 16, 3))
    linear = ((srgb / 255 + 0.055) / 1.055) ** 2.4
    code = pq_of_light(linear @ np.linalg.inv(tone.FROM_BT2020).T)
    mapped = tone.map_tones(np.round(code * 255).astype(np.uint8), 16)
    assert np.abs(mapped - srgb).mean() < 3 and np.abs(mapped - srgb).max() < 16
    grey_of = lambda value: tone.map_tones(np.full((1, 1, 3), value, np.uint8), 16)
    ramp = np.concatenate([grey_of(value) for value in range(256)])[:, 0].astype(int)
    assert np.diff(ramp, axis=0).min() >= -1
    assert (np.diff(ramp[:200:16], axis=0) > 0).all() and ramp[-1].min() > 245
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx265", 25, options={"x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = 16, 9, 9
        picture = np.full((*SIZE[::-1], 3), round(65535 * float(pq_of_light(np.float64(0.2)))), np.uint16)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb48le")
        frame = frame.reformat(format="yuv420p10le", dst_colorspace=9)
        frame.pts = 0  # without a time the muxer may refuse it
        frame.color_trc, frame.color_primaries, frame.colorspace = 16, 9, 9
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    shown = next(iter(open_video(path))).picture.mean()
    assert shown == pytest.approx(255 * (1.055 * 0.2 ** (1 / 2.4) - 0.055), abs=6)


# What cannot be read, or not wholly -------------------------------------------------------------------------


def test_a_truncated_film_ends_before_its_header_says(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "whole.mp4"
    with VideoWriter(path, 25) as film:
        for _ in range(24):
            film.add(rng.integers(0, 255, (48, 64, 3), np.uint8))
    with (
        av.open(str(path)) as whole,
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    content = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 3])
    film = open_video(tmp_path / "cut.mp4")
    edges = frame_edges([(frame.time, frame.duration) for frame in film])
    assert film.length == 24 and film.duration == pytest.approx(0.96)
    assert 1 <= len(edges) - 1 < 12


def test_files_that_are_no_films_are_told_in_one_line(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "zeros.mp4").write_bytes(b"\0" * 100)
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", 48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    for name, said in {
        "empty.mp4": "cannot be read",
        "zeros.mp4": "cannot be read",
        "sound.mp4": "audio",
    }.items():
        with pytest.raises(UserError, match=said):
            open_video(tmp_path / name)
    with pytest.raises(UserError, match="no file"):
        open_video(tmp_path / "absent.mp4")


# Folders ----------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_natural_order_without_hidden_files(tmp_path):
    for number in (1, 2, 10, 11):
        Image.fromarray(grey(number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "._frame1.png").write_bytes(b"\0\5\26\7")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [path.stem for path in folder_pictures(tmp_path)] == ["frame1", "frame2", "frame10", "frame11"]
    numbers, edges = read(tmp_path)
    np.testing.assert_array_equal(numbers, [1, 2, 10, 0])
    np.testing.assert_allclose(edges, np.arange(5) / 25)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        open_video(tmp_path / "empty")


def test_samples_are_spread_over_a_film(tmp_path):
    path = write_film(tmp_path / "keys.mp4", even(25, 11), g="2", **ONE_PASS)
    shades = [picture.mean() for picture in sample_video(path, 4)]
    assert len(shades) == 4 and len(set(np.round(shades))) >= 3
    assert len(list(sample_video(path, 4, max_frames=5))) == 4


def test_reading_ahead_keeps_the_order_and_says_what_went_wrong():
    """At most so many are made before they are asked for."""
    made = []

    def items():
        for number in range(6):
            made.append(number)
            yield number
        raise UserError("damaged")

    ahead, seen = read_ahead(items(), 2), []
    with pytest.raises(UserError, match="damaged"):
        for item in ahead:
            seen.append(item)
            time.sleep(0.01)
            assert len(made) <= len(seen) + 2
    assert seen == made == [*range(6)]
    assert list(read_ahead([], 2)) == [] and list(read_ahead("ab", 5)) == ["a", "b"]
