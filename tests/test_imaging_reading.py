"""Photos as they come: profiles, deep colours, alpha, HEIC, very many pixels."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from p4d_jax.errors import UserError
from p4d_jax.imaging import reading
from p4d_jax.imaging.reading import BEHIND, read_photo, scale_by_content, split_alpha


@pytest.fixture
def picture(rng) -> np.ndarray:
    """A smooth picture (48, 64, 3)."""
    rows, columns = np.mgrid[:48, :64]
    return np.stack([columns * 4, rows * 5, 255 - columns * 2 - rows], axis=-1).astype(np.uint8)


def swapped_profile() -> bytes:
    """sRGB's profile with red and blue exchanged, so that an exchanged picture looks as it should."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    tags = {bytes(profile[i : i + 4]): i for i in range(132, 132 + 12 * count, 12)}
    red, blue = (
        int.from_bytes(profile[tags[name] + 4 : tags[name] + 8], "big") for name in (b"rXYZ", b"bXYZ")
    )
    profile[red : red + 20], profile[blue : blue + 20] = profile[blue : blue + 20], profile[red : red + 20]
    return bytes(profile)


def write_deep(path, values: np.ndarray, codec: str) -> None:
    """A file of 16 bits a channel."""
    context = av.CodecContext.create(codec, "w")
    form = {3: "rgb48", 4: "rgba64"}[values.shape[2]] + ("be" if codec == "png" else "le")
    context.height, context.width, context.pix_fmt = *values.shape[:2], form
    context.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(values, format=form[:-2] + "le").reformat(format=form)
    path.write_bytes(b"".join(bytes(packet) for x in (frame, None) for packet in context.encode(x)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_colours_of_a_profile_become_srgb(suffix, tmp_path, picture):
    image = Image.fromarray(picture[..., ::-1].copy())
    image.save(tmp_path / f"a{suffix}", icc_profile=swapped_profile(), quality=98)
    read = read_photo(tmp_path / f"a{suffix}").astype(int)
    assert np.abs(read - picture).mean() < (2 if suffix in (".png", ".tif") else 6)


def test_a_damaged_profile_is_left_out(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png", icc_profile=b"no profile at all")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), picture)


def test_alpha_stays_with_one_colour_behind_it(tmp_path, picture):
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, :20], alpha[:, 20:24] = 0, 128
    for name in ("a.png", "a.webp", "a.tif"):
        Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / name, lossless=True)
        read = read_photo(tmp_path / name)
        colours, mask = split_alpha(read)
        np.testing.assert_array_equal(mask, alpha)
        assert (colours[:, :20] == BEHIND).all()
        np.testing.assert_array_equal(colours[:, 24:], picture[:, 24:])
    opaque = np.dstack([picture, np.full((48, 64), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    assert split_alpha(read_photo(tmp_path / "opaque.png"))[1] is None
    np.testing.assert_array_equal(reading.as_photo(opaque), picture)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_more_than_8_bits_are_scaled_by_what_they_hold(bits, tmp_path, picture):
    full = picture.astype(np.float64) / 255
    values = np.round(full * (2**bits - 1)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    full[0, 0] = 1
    np.testing.assert_allclose(scale_by_content(values), 255 * full, atol=1)
    Image.fromarray(values[..., 1]).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read_photo(tmp_path / "grey.png")[..., 0], 255 * full[..., 1], atol=1)
    for name, codec in (("deep.png", "png"), ("deep.tif", "tiff")):
        write_deep(tmp_path / name, values, codec)
        np.testing.assert_allclose(read_photo(tmp_path / name), 255 * full, atol=1)


def test_floats_are_scaled_too_and_what_is_not_a_number_is_black(tmp_path, picture):
    grey = picture[..., 0].astype(np.float32) / 255
    for name, factor in (("unit", 1.0), ("large", 5000.0)):
        Image.fromarray(grey * factor).save(tmp_path / f"{name}.tiff")
        want = 255 * grey / (1 if factor == 1 else grey.max())
        np.testing.assert_allclose(read_photo(tmp_path / f"{name}.tiff")[..., 1], want, atol=1)
    assert scale_by_content(np.array([np.nan, np.inf, 0.5])).tolist() == [0, 0, 128]


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_very_large_photos_are_reduced(name, tmp_path, picture, monkeypatch):
    monkeypatch.setattr(reading, "MOST_PIXELS", 48 * 64 // 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit, as 200 megapixels pass it
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(picture).copy()).save(tmp_path / name, quality=98, exif=exif)
    read = read_photo(tmp_path / name)
    assert read.shape == (24, 32, 3)
    small = picture.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(read - small).mean() < 4
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(reading, "REFUSED_PIXELS", 1000)
    with pytest.raises(UserError, match=r"64x48|48x64"):
        read_photo(tmp_path / name)


def test_heic_is_read_or_told_how(tmp_path, picture, monkeypatch):
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    monkeypatch.setattr(reading, "_heif_is_there", lambda: False)
    with pytest.raises(UserError, match="pillow-heif"):
        read_photo(path)
    monkeypatch.undo()
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(picture)).save(path, quality=95)
    assert np.abs(read_photo(path).astype(int) - picture).mean() < 6


def test_a_folder_and_a_path_of_the_home_are_told_and_read(tmp_path, picture, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(picture).save(tmp_path / "me.png")
    np.testing.assert_array_equal(read_photo("~/me.png"), picture)
    with pytest.raises(UserError, match="is a folder"):
        read_photo(tmp_path)


def test_cut_files_of_every_kind_are_one_line(tmp_path, picture):
    for name in ("a.jpg", "a.png", "a.webp", "a.tif", "a.gif", "a.bmp"):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, Image.registered_extensions()[f".{name[2:]}"])
        (tmp_path / name).write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        with pytest.raises(UserError):
            read_photo(tmp_path / name)
