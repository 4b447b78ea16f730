"""Record sets of portraits: a training sees what the folder of photos or films holds, bit for bit."""

import importlib.util

import jax
import numpy as np
import pytest
from PIL import Image
from test_data_photos import COUNT, SIZE, random_frames, random_photos
from test_reconstructor_stored_pairs import BATCH, CLIPS, write_films
from test_reconstructor_stored_pairs import SIZE as FRAME_SIZE

from p4d_jax import assets
from p4d_jax.data import portraits
from p4d_jax.data.photos import Photo, open_bent_photos, write_photos
from p4d_jax.data.portraits import open_portraits, portrait_set, write_portraits
from p4d_jax.errors import UserError
from p4d_jax.reconstructor.film_pairs import open_films
from p4d_jax.reconstructor.stored_pairs import numbered_pairs

SHARD = 4  # records


@pytest.fixture(scope="module")
def head():
    return assets.head_model()


@pytest.fixture(scope="module")
def images(tmp_path_factory, head):
    """A folder of photos, and one in which its record set of two shards lies."""
    photos, folder = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("images")
    write_photos(photos, random_photos(neck=0.2), head.name, head.expression_names)
    assert write_portraits(folder, "portrait_images", photos, head, SIZE, records_a_shard=SHARD) == COUNT
    return photos, folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory, head):
    films, folder = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("clips")
    write_films(films, CLIPS)
    write_portraits(folder, "portrait_clips", films, head, FRAME_SIZE, records_a_shard=SHARD)
    return films, folder


def test_tfds_reads_the_photos_without_this_package(images, head):
    import tensorflow_datasets as tfds

    folder = open_bent_photos(images[0], head, SIZE, mirror=False)
    records = tfds.data_source("portrait_images", split="train", data_dir=str(images[1]))
    assert len(records) == COUNT
    for number, record in enumerate(records):
        image, mask = folder.read(number)
        np.testing.assert_array_equal(record["image"], image)
        np.testing.assert_array_equal(record["mask"], mask)
        parts = [record[part] for part in ("camera", "shape", "expression", "pose", "eyes")]
        np.testing.assert_array_equal(np.concatenate(parts), folder.frames[number])
        assert record["name"].decode() == folder.names[number]


def test_a_training_sees_the_photos_of_the_folder(images, head):
    """Flipped ones included; and it may ask for smaller ones."""
    for size in (SIZE, SIZE // 2):
        one, other = (open_portraits(place, "portrait_images", head, size) for place in images)
        assert one.summary() == other.summary() == "6 photos, and as many flipped"
        np.testing.assert_array_equal(one.frames, other.frames)
        for sample in range(2 * COUNT):
            for ours, theirs in zip(one.read(sample), other.read(sample), strict=True):
                np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="pictures of 16², the model takes 32²"):
        open_portraits(images[1], "portrait_images", head, 2 * SIZE)


def test_pairs_of_clips_are_those_of_the_folder_of_films(clips, head):
    one, other = (open_films(place, head, FRAME_SIZE, True, 0, BATCH, 5) for place in clips)
    assert one.summary() == other.summary() == "9 photos, and as many flipped, in 3 clips"
    for number in range(3):
        jax.tree.map(
            np.testing.assert_array_equal,
            *(numbered_pairs(source, np.arange(BATCH))[number] for source in (one, other)),
        )


def test_frames_of_a_clip_follow_one_another(tmp_path, head):
    blank = np.zeros((SIZE, SIZE, 3), np.uint8)
    names = ("b/1", "a/0", "b/0", "a/1")
    photos = [Photo(n, blank, blank[..., 0], f) for n, f in zip(names, random_frames(4), strict=True)]
    write_photos(tmp_path / "films", photos, head.name, head.expression_names)
    write_portraits(tmp_path, "portrait_clips", tmp_path / "films", head, SIZE)
    records = portrait_set(tmp_path, "portrait_clips").open()
    assert [f"{r['clip'].decode()}/{r['frame'].decode()}" for r in records] == ["b/1", "b/0", "a/0", "a/1"]
    found = open_portraits(tmp_path, "portrait_clips", head, SIZE, mirror=False)
    np.testing.assert_array_equal(found.frames, random_frames(4)[[0, 2, 1, 3]])
    write_photos(tmp_path / "alone", [photos[0], Photo("alone", *vars_of(photos[1]))], head.name)
    with pytest.raises(UserError, match="'alone' belongs to no clip"):
        write_portraits(tmp_path / "x", "portrait_clips", tmp_path / "alone", head, SIZE)


def vars_of(photo: Photo) -> tuple:
    return photo.image, photo.mask, photo.frame


def test_a_set_that_was_stopped_goes_on_and_has_the_same_bytes(images, tmp_path, head, monkeypatch):
    photos, whole = images
    write = portraits.write_shard

    def stop(path, *arguments):
        if "00001-of" in path.name:
            raise KeyboardInterrupt
        write(path, *arguments)

    arguments = (tmp_path, "portrait_images", photos, head, SIZE)
    monkeypatch.setattr(portraits, "write_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        write_portraits(*arguments, records_a_shard=SHARD)
    with pytest.raises(UserError, match=r"no finished data set portrait_images .*data\.portraits"):
        open_portraits(tmp_path, "portrait_images", head, SIZE)
    made, written = portrait_set(tmp_path, "portrait_images"), []
    before = made.shard_path(0, 2).stat().st_mtime_ns
    monkeypatch.setattr(portraits, "write_shard", lambda *a: written.append(a[0].name) or write(*a))
    write_portraits(*arguments, records_a_shard=SHARD)
    assert len(written) == 1 and made.shard_path(0, 2).stat().st_mtime_ns == before
    there = portrait_set(whole, "portrait_images").path
    for path in there.iterdir():
        assert (made.path / path.name).read_bytes() == path.read_bytes(), path.name
    with pytest.raises(UserError, match="holds samples made with size=16, not 8"):
        write_portraits(tmp_path, "portrait_images", photos, head, SIZE // 2, records_a_shard=SHARD)


def test_a_record_that_is_damaged_is_named_or_passed_over(images, tmp_path, head, capsys):
    """A photo that is none leaves the set unmade; bits that flipped later are told when they are read."""
    photos, _ = images
    write_portraits(tmp_path, "portrait_images", photos, head, SIZE)
    shard = portrait_set(tmp_path, "portrait_images").shard_path(0, 1)
    data = bytearray(shard.read_bytes())
    data[600] ^= 1  # in the first record's pixels
    shard.write_bytes(data)
    found = open_portraits(tmp_path, "portrait_images", head, SIZE)
    with pytest.raises(UserError, match=r"the record of '0/.\.b' is damaged"):
        for sample in range(COUNT):
            found.read(sample)
    found = open_portraits(tmp_path, "portrait_images", head, SIZE, damaged=1)
    numbers = [found.read_sound(sample)[0] for sample in range(COUNT)]
    assert sum(number != sample for sample, number in enumerate(numbers)) == 1
    assert capsys.readouterr().out.count("left out: ") == 1


def test_without_tensorflow_one_line_says_what_to_do(images, head, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find(name)
    )
    with pytest.raises(UserError, match=r"record sets need tensorflow, .* folders of photos and films"):
        open_portraits(images[1], "portrait_images", head, SIZE)
    assert len(open_portraits(images[0], "portrait_images", head, SIZE)) == 2 * COUNT


def test_a_damaged_photo_leaves_no_shard(tmp_path, head):
    write_photos(tmp_path / "photos", random_photos(), head.name, head.expression_names)
    path = tmp_path / "photos/images/0/1.b.png"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"1\.b\.png: missing, truncated or damaged"):
        write_portraits(tmp_path, "portrait_images", tmp_path / "photos", head, SIZE)
    assert not list(portrait_set(tmp_path, "portrait_images").path.glob("*array_record*"))
    assert Image.open(tmp_path / "photos/images/0/0.b.png").size == (SIZE, SIZE)
