"""Reading, detecting, cropping: properties on the public-domain astronaut and on pictures made of it."""

from __future__ import annotations

import io

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data

from p4d_jax import assets
from p4d_jax.capture import capture_album, capture_photo
from p4d_jax.capture.alpha import SeenHead, combine_looks
from p4d_jax.capture.crop import crop_matrix, crop_photo, known_pixels, quarter_turn, square_of_matrix
from p4d_jax.capture.detect import ANCHORS, merge_detections
from p4d_jax.capture.landmarks import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS
from p4d_jax.capture.outside import continue_alpha, continue_colours, spread_nearest
from p4d_jax.capture.segmentation import Segmenter
from p4d_jax.errors import UserError
from p4d_jax.geometry import project
from p4d_jax.head.actions import ARKIT
from p4d_jax.head.landmarks import mediapipe_landmarks
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.imaging.reading import as_photo, read_photo
from p4d_jax.imaging.video import open_video
from p4d_jax.imaging.warping import PhotoPyramid, apply_matrix, compose_matrices, invert_matrix, square_matrix
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.portraits import portraits_in_scene
from p4d_jax.openheads.scene import prepare_scene


@pytest.fixture(scope="module")
def capture(photo, landmarker):
    return capture_photo(photo, assets.head_model(), landmarker)


# Reading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, photo, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = Image.fromarray(photo[:300])
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "photo.png"), photo[:300])


def test_grey_alpha_palette_16_bit_and_animation(tmp_path, photo):
    picture = Image.fromarray(photo)
    grey = np.asarray(picture.convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    read = read_photo(tmp_path / "grey.png")
    assert all((read[..., c] == grey).all() for c in range(3))

    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_photo(tmp_path / "deep.png")[..., 1], grey, atol=1)
    np.testing.assert_allclose(as_photo(grey.astype(np.uint16) * 257)[..., 2], grey, atol=1)

    alpha = np.full((*grey.shape, 1), 255, np.uint8)
    alpha[:100] = 0
    rgba = np.concatenate([photo, alpha], axis=-1)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    read = read_photo(tmp_path / "alpha.png")
    assert (read[:100] == (255, 255, 255, 0)).all() and (read[100:, :, :3] == photo[100:]).all()
    np.testing.assert_array_equal(as_photo(rgba), read)

    palette = picture.quantize(64)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))

    second = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    palette.save(tmp_path / "moving.gif", save_all=True, append_images=[second], duration=40)
    assert np.abs(read_photo(tmp_path / "moving.gif").astype(int) - photo).mean() < 12
    assert len(list(open_video(tmp_path / "moving.gif"))) >= 2


def test_unreadable_files_say_what_is_wrong(tmp_path, photo):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(UserError, match="truncated"):
        read_photo(tmp_path / "cut.jpg")
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(UserError, match="not an image"):
        read_photo(tmp_path / "text.jpg")
    with pytest.raises(UserError, match="no file"):
        read_photo(tmp_path / "absent.jpg")
    (tmp_path / "cut.mp4").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="cannot be read as a video"):
        open_video(tmp_path / "cut.mp4")
    with pytest.raises(ValueError, match="float"):
        as_photo(np.zeros((64, 64, 3)))


# Detection ------------------------------------------------------------------------------------------------


def test_anchor_counts_are_those_of_the_networks():
    counts = {name: len(anchors.centres()) for name, anchors in ANCHORS.items()}
    assert counts == {
        "face_detection_short_range": 896,
        "face_detection_back": 896,
        "face_detection_full_range": 2304,
    }


def test_overlapping_detections_merge_by_score():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], float)
    faces = merge_detections(boxes, np.zeros((3, 6, 2)), np.array([0.6, 0.9, 0.7]))
    assert [face.score for face in faces] == [0.9, 0.7]
    np.testing.assert_allclose(faces[0].box, [0.6, 0, 10.6, 10])


def test_landmarks_lie_on_the_astronaut(landmarks):
    # the pupils, read off the enlarged photo by hand, pixels
    np.testing.assert_allclose(landmarks.iris[0, 0], [246.9, 103.5], atol=1.5)
    np.testing.assert_allclose(landmarks.iris[1, 0], [203.6, 100.8], atol=1.5)
    for eye, corners in zip(landmarks.iris, (LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS), strict=True):
        middle = landmarks.points[list(corners)].mean(axis=0)
        assert np.linalg.norm(eye[0] - middle) < 0.1 * landmarks.eye_distance


def test_the_astronaut_s_scores_are_of_a_smile_with_open_eyes(landmarks):
    score = dict(zip(ARKIT, landmarks.actions, strict=True))
    assert np.isnan(score.pop("tongueOut")) and all(0 <= value <= 1 for value in score.values())
    assert min(score["mouthSmileLeft"], score["mouthSmileRight"]) > 0.7
    assert max(score["eyeBlinkLeft"], score["eyeBlinkRight"], score["jawOpen"]) < 0.3


def test_a_detector_without_scores_and_with_bad_ones(photo, landmarks, capture):
    class Told:
        def __init__(self, actions):
            self.actions = actions

        def detect(self, image, previous=None):
            return landmarks.replace(actions=self.actions)

    without = capture_photo(photo, assets.head_model(), Told(None))
    assert np.abs(np.asarray(without.params.expression - capture.params.expression)).max() > 0.01
    assert abs(without.error - capture.error) < 0.005
    with pytest.raises(ValueError, match="52 actions"):
        capture_photo(photo, assets.head_model(), Told(np.zeros(51)))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_photo_on_its_side_gives_the_same_landmarks(photo, landmarker, landmarks, turns):
    turned = landmarker.detect(np.rot90(photo, turns).copy())
    points = landmarks.points
    for _ in range(turns):  # (x, y) -> (y, W - x): a quarter turn against the clock
        points = np.stack([points[:, 1], 512 - points[:, 0]], axis=-1)
    assert np.linalg.norm(turned.points - points, axis=-1).mean() < 0.06 * landmarks.eye_distance
    roll = np.arctan2(*(turned.points[263] - turned.points[33])[::-1])
    upright = apply_matrix(quarter_turn(roll), turned.points)
    assert abs(np.arctan2(*(upright[263] - upright[33])[::-1])) < np.pi / 4


def test_following_agrees_with_detecting(photo, landmarker, landmarks):
    followed = landmarker.detect(photo, landmarks)
    assert np.linalg.norm(followed.points - landmarks.points, axis=-1).mean() < 0.02 * landmarks.eye_distance


def test_several_looks_scatter_less_than_one_and_agree_with_it(photo, landmarker, landmarks):
    def scatter(looks: int) -> tuple[np.ndarray, float]:
        """Points, and their mean standard deviation, over crops of the photo, in its pixels."""
        cut = lambda x, y: landmarker.detect(photo[y:, x:].copy(), looks=looks).points + np.array([x, y])
        found = np.stack([cut(x, y) for x, y in ((0, 0), (3, 5), (7, 2), (11, 9))])
        return found[0], found.std(axis=0).mean()

    (_, one), (points, several) = scatter(1), scatter(8)
    assert several < 0.7 * one
    assert np.linalg.norm(points - landmarks.points, axis=-1).mean() < 0.03 * landmarks.eye_distance


def test_landmarks_of_mirrored_faces_are_mirrored(landmarker):
    """No shift to one side, which half a pixel of the network would be: 0.009 eye distances."""
    scene = prepare_scene(assets.head_model())
    shown = portraits_in_scene(scene, jax.random.split(jax.random.key(0), 32), 128, OpenHeadsSettings())
    shifts = []
    for image in np.asarray(shown.image):
        picture = np.kron(np.uint8(image * 127.5 + 127.5), np.ones((3, 3, 1), np.uint8))
        faces = [landmarker.detect(np.ascontiguousarray(x), looks=5) for x in (picture, picture[:, ::-1])]
        if None not in faces:
            left, right = (face.points[:, 0].mean() for face in faces)
            shifts.append(0.5 * (left + right - picture.shape[1]) / faces[0].eye_distance)
    assert len(shifts) >= 28
    assert abs(np.mean(shifts)) < 0.004


def test_two_faces_take_the_larger_and_say_so(photo, landmarker):
    face = photo[:300, 80:380]
    small = np.asarray(Image.fromarray(face).resize((170, 170)))
    both = np.full((300, 560, 3), 128, np.uint8)
    both[:, 260:] = face
    both[60:230, 30:200] = small
    capture = capture_photo(both, assets.head_model(), landmarker)
    assert "2 faces" in capture.note and "largest" in capture.note
    assert capture.landmarks.points[:, 0].mean() > 300


def test_photos_of_one_person_share_a_shape_and_keep_their_own_crops(photo, landmarker, capture):
    head = assets.head_model()
    left, right = capture_album([photo[:400, 20:420], photo[:, ::-1].copy()], head, landmarker)
    np.testing.assert_array_equal(left.params.shape, right.params.shape)
    assert np.abs(np.asarray(left.params.shape)).max() > 0.05
    assert max(left.error, right.error) < capture.error + 0.02
    # The same face in a smaller photo is the same crop; a mirrored one, its mirror, roughly.
    assert np.abs(left.crop[100:400].astype(float) - capture.crop[100:400]).mean() < 6
    mirrored = capture.crop[100:400, ::-1].astype(float)
    assert np.abs(right.crop[100:400] - mirrored).mean() < 0.5 * np.abs(left.crop[100:400] - mirrored).mean()


def test_of_several_photos_the_one_without_a_face_is_named(photo, landmarker):
    with pytest.raises(UserError, match=r"no face found in photo 2 of 2"):
        capture_album([photo, data.coins()], assets.head_model(), landmarker)


def test_no_face_and_tiny_face_are_told(photo, landmarker):
    with pytest.raises(UserError, match="no face"):
        capture_photo(data.coins(), assets.head_model(), landmarker)
    tiny = np.asarray(Image.fromarray(photo).resize((160, 160)))
    with pytest.raises(UserError, match="too small"):
        capture_photo(tiny, assets.head_model(), landmarker)


# Crop and alpha -------------------------------------------------------------------------------------------


def test_matrices_invert_and_compose():
    rng = np.random.default_rng(0)
    matrix = square_matrix(rng.uniform(0, 100, 2), 37.0, 0.7, 64, flip=True)
    other = crop_matrix(np.array([30.0, 40.0]), 90.0)
    points = rng.uniform(0, 64, (5, 2))
    np.testing.assert_allclose(apply_matrix(invert_matrix(matrix), apply_matrix(matrix, points)), points)
    np.testing.assert_allclose(
        apply_matrix(compose_matrices(other, matrix), points),
        apply_matrix(other, apply_matrix(matrix, points)),
    )


def test_crop_keeps_the_photo_and_repeats_its_border():
    rows, columns = np.mgrid[:200, :200]
    photo = np.stack([columns, rows, 0 * rows + 77], axis=-1).astype(np.uint8)
    pyramid = PhotoPyramid(photo)
    same = crop_photo(pyramid, crop_matrix(np.array([100.0, 100.0]), 200.0, 200), 200)
    np.testing.assert_array_equal(same, photo)
    wider = crop_photo(pyramid, crop_matrix(np.array([100.0, 100.0]), 400.0, 200), 200)
    half = photo.reshape(100, 2, 100, 2, 3).mean(axis=(1, 3))
    assert np.abs(wider[52:148, 52:148].astype(float) - half[2:98, 2:98]).max() <= 2
    assert (wider[..., 2] == 77).all()  # no black comes in from outside
    np.testing.assert_array_equal(wider[:, :50], np.repeat(wider[:, 50:51], 50, axis=1))
    np.testing.assert_array_equal(wider[150:], np.repeat(wider[149:150], 50, axis=0))


def test_capture_of_the_astronaut(capture, photo):
    assert capture.error <= 0.04
    assert capture.crop.shape == (512, 512, 3) and capture.note == ""
    # the crop is the photo: a pixel in the face, found through the matrix
    nose = apply_matrix(capture.crop_matrix, capture.landmarks.points[4])
    x, y = capture.landmarks.points[4].astype(int)
    colour = capture.crop[int(nose[1]), int(nose[0])].astype(int)
    assert np.abs(colour - photo[y - 1 : y + 2, x - 1 : x + 2].mean(axis=(0, 1))).max() < 25
    # the person smiles at the camera with closed jaw and open eyes
    assert np.abs(np.asarray(capture.params.jaw)).max() < 0.2
    assert np.abs(np.asarray(capture.params.eyes)).max() < 0.25


def test_a_photo_can_be_seen_in_another_square(photo, landmarker):
    """As a film's frames are: the camera sees the fitted head where that square shows the photo's."""
    centre, side = np.array([240.0, 190.0]), 430.0
    square = crop_matrix(centre, side)
    for found, wanted in zip(square_of_matrix(square), (centre, side), strict=True):
        np.testing.assert_allclose(found, wanted)
    head = assets.head_model()
    seen = capture_photo(photo, head, landmarker, square=square)
    known = seen.known == 1
    np.testing.assert_array_equal(seen.crop[known], crop_photo(PhotoPyramid(photo), square)[known])
    points = mediapipe_landmarks(head, posed_vertices(head, seen.params.shape, seen.params))
    projected = 512 * np.asarray(project(seen.params.camera, points)[0])
    # The head is seen in another perspective than it was fitted in, which is second order at 12 degrees.
    np.testing.assert_allclose(projected, apply_matrix(square, seen.model_points), atol=4)


def test_alpha_of_the_astronaut(capture):
    alpha = capture.alpha
    assert alpha.shape == (512, 512) and alpha.min() >= 0 and alpha.max() <= 1
    inside = apply_matrix(capture.crop_matrix, capture.landmarks.points).astype(int)
    assert alpha[inside[:, 1], inside[:, 0]].mean() > 0.99
    assert alpha[:120, :20].mean() < 0.05 and alpha[:120, -12:].mean() < 0.05  # the upper corners
    assert 0.25 < alpha.mean() < 0.75
    assert capture.known.shape == (512, 512) and capture.known.dtype == np.float32


def test_people_who_are_far_or_not_attached_are_left_out():
    rows, columns = np.mgrid[:128, :128]
    disc = (rows - 60) ** 2 + (columns - 50) ** 2 < 30**2
    seen = SeenHead(disc, np.zeros_like(disc), 90.0)
    hair = (rows - 60) ** 2 + (columns - 50) ** 2 < 36**2
    neighbour = columns > 115
    shoulders = rows >= 90
    looks = np.stack([hair | neighbour | shoulders, hair | shoulders, ~hair]).astype(np.float32)
    opacity = combine_looks(looks, seen, np.ones((128, 128)))
    assert opacity.dtype == np.float32 and opacity.min() >= 0 and opacity.max() <= 1
    assert (opacity[hair] > 0.9).all() and (opacity[shoulders & ~hair] > 0.9).all()
    assert (opacity[neighbour & (rows < 86)] < 0.05).all()
    # A look that loses the head counts for little, one that sees nobody at all for nothing.
    np.testing.assert_allclose(combine_looks(0 * looks, seen, np.ones((128, 128))), seen.inside, atol=1e-6)


def test_segments_of_mirrored_squares_are_mirrored(photo):
    segmenter = Segmenter()
    square = np.asarray(Image.fromarray(photo).resize((256, 256)))
    people = segmenter.segment(square)
    np.testing.assert_allclose(segmenter.segment(square[:, ::-1])[:, ::-1], people, atol=1e-5)
    looks = segmenter.looks(PhotoPyramid(photo), np.eye(2, 3), 512)
    assert np.abs(looks[0] - people).mean() < 0.02  # resampled by another filter
    assert looks[:, 40:60, 110:120].min() > 0.9 and looks.shape == (3, 256, 256)
    with pytest.raises(ValueError, match="square"):
        segmenter.segment(photo)


# Outside of the photo -------------------------------------------------------------------------------------


def head_of(size: int) -> SeenHead:
    """A disc in the middle, whose scalp is its upper half."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    disc = np.hypot(rows - 0.45 * size, columns - 0.5 * size) < 0.25 * size
    return SeenHead(disc, disc & (rows < 0.45 * size), 0.7 * size)


def test_known_pixels_are_those_of_the_photo():
    pyramid = PhotoPyramid(np.zeros((60, 80, 3), np.uint8))
    matrix = np.array([[1.0, 0, 20], [0, 1.0, 0]])
    known = known_pixels(pyramid, matrix, 60)  # the photo begins at column 20 and fills the rest
    assert known.shape == (60, 60) and known.dtype == np.float32
    assert (known[:, :20] == 0).all() and (known[:, 24:] == 1).all()
    assert (np.diff(known, axis=1) >= 0).all() and np.ptp(known, axis=0).max() == 0


def test_what_is_known_stays_and_hair_is_as_thick_on_both_sides():
    size = 128
    seen = head_of(size)
    thick = 0.1
    whole = (seen.distance < thick).astype(np.float32)
    known = np.zeros((size, size), np.float32)
    known[:, : size // 2] = 1
    alpha = continue_alpha(whole * known, known, seen)
    np.testing.assert_array_equal(alpha[known == 1], whole[known == 1])
    above = np.arange(size)[:, None] < 0.6 * size
    assert np.abs(alpha - whole)[above & (known == 0)].mean() < 0.02
    # Its middle stands out by as much as on the side that is known.
    row = int(0.45 * size)
    assert abs(alpha[row, size // 2 :].sum() - alpha[row, : size // 2].sum()) < 2


def test_outside_of_a_border_without_person_there_is_none():
    size = 128
    seen = head_of(size)
    known = np.zeros((size, size), np.float32)
    known[40:] = 1  # the mesh rises above the photo, whose border shows background
    alpha = np.zeros((size, size), np.float32)
    alpha[60:, 40:90] = 1
    assert continue_alpha(alpha, known, seen)[:38].max() == 0


def test_each_material_is_continued_by_its_own_colour():
    size = 128
    seen = head_of(size)
    rows, columns = np.mgrid[:size, :size]
    known = (columns < size // 2).astype(np.float32)
    alpha = (seen.silhouette | (rows >= seen.chin)).astype(np.float32)
    colours = {
        "hair": (90, 60, 30),
        "skin": (220, 170, 150),
        "body": (20, 40, 160),
        "background": (0, 200, 0),
    }
    truth = np.zeros((size, size, 3), np.uint8)
    truth[:] = colours["background"]
    truth[seen.silhouette] = colours["skin"]
    truth[seen.scalp] = colours["hair"]
    truth[rows >= seen.chin] = colours["body"]
    crop = np.where(known[..., None] > 0, truth, 255).astype(np.uint8)
    filled = continue_colours(crop, alpha, known, seen)
    np.testing.assert_array_equal(filled, truth)


def test_nearest_colours_agree_with_a_search(rng):
    image = rng.uniform(0, 255, (12, 12, 3)).astype(np.float32)
    sure = rng.uniform(size=(12, 12)) < 0.3
    spread = spread_nearest(np.float32(np.where(sure[..., None], 100, image)), sure)
    np.testing.assert_allclose(spread, 100, atol=1e-3)  # nothing comes from what is not sure
    np.testing.assert_allclose(spread_nearest(image, sure)[sure], image[sure])
    nobody = spread_nearest(image, np.zeros((12, 12), bool))
    np.testing.assert_allclose(nobody, np.broadcast_to(image.mean((0, 1)), image.shape), rtol=1e-5)


def test_a_half_photo_has_no_second_eye(photo, landmarker):
    capture = capture_photo(np.ascontiguousarray(photo[:300, :240]), assets.head_model(), landmarker)
    assert 0.2 < capture.known.mean() < 0.9
    unknown = capture.known == 0
    assert 0.1 < capture.alpha[unknown].mean() < 0.9  # some head, some background
    kept = crop_photo(PhotoPyramid(photo[:300, :240]), capture.crop_matrix)
    np.testing.assert_array_equal(capture.crop[capture.known == 1], kept[capture.known == 1])
