"""The jobs around GenHead: measures, and a dataset with its pictures from exported weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_genhead import SMALL, random_variables

from p4d_jax.evaluation import genhead as evaluate_genhead
from p4d_jax.evaluation.consistency import Surface, reprojected_depth_error
from p4d_jax.genhead.renderer import open_renderer
from p4d_jax.genhead.weights import load_genhead, save_genhead
from p4d_jax.geometry import look_at_camera
from p4d_jax.reconstructor.weights import load_reconstructor
from p4d_jax.types import FrameParams

COMMAND = ("p4d_jax", "--config=configs/synthesize.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Exported weights of a GenHead that knows nothing."""
    variables = random_variables()
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    save_genhead(path, SMALL, variables, {"steps": 0, "resolution": 8})
    return path, variables


def test_exported_weights_come_back_as_float16_holds_them(weights):
    path, variables = weights
    genhead, loaded = load_genhead(path)
    assert genhead.config == SMALL
    for one, other in zip(jax.tree.leaves(variables), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(np.asarray(one, np.float16), np.asarray(other, np.float16))
    with pytest.raises(ValueError, match="not an exported reconstructor"):
        load_reconstructor(path)


# What ships ------------------------------------------------------------------------------------------------


def test_shipped_heads_open_mouth_and_shut_eyes_on_command():
    """Eyes and mouth change where the mesh says; the far background stays as it was.

    An open mouth is darker than lips, a lid lighter than an eye: on average of the four. One of them has a
    mouth that is as light as its skin inside, and eyes that hardly lighten when they shut.
    """
    renderer = open_renderer("genhead_demo", "openhead")
    names, camera = renderer.head.expression_names, look_at_camera(0.0, 0.0, 4.0, pivot=(0, 0, 0.09))
    shape, size = jnp.zeros((4, 300)), 2 * renderer.trained_resolution

    def frame(jaw: float, **actions: float) -> FrameParams:
        expression = (
            jnp.zeros(100)
            .at[jnp.array([names.index(name) for name in actions])]
            .set(jnp.array(list(actions.values())))
        )
        return FrameParams(camera, shape[0], expression, jnp.zeros(6).at[3].set(jaw), jnp.zeros(6))

    latents = jax.random.normal(jax.random.key(0), (4, renderer.genhead.config.latent_size))
    label = jnp.broadcast_to(camera.to_label(), (4, 25))
    planes, backgrounds = jax.jit(renderer.make_identities)(latents, label, shape, 0.7)
    show = jax.jit(lambda p, b, f: renderer.show(p, b, f, renderer.trained_resolution, (8, 8)))
    frames = {
        "still": frame(0.0, jawOpen=0.0),
        "talking": frame(0.36, jawOpen=1.0),
        "asleep": frame(0.0, eyeBlinkLeft=1.0, eyeBlinkRight=1.0),
    }
    darker, lighter = [], []
    for identity in range(4):
        seen = {name: show(planes[identity], backgrounds[identity], f) for name, f in frames.items()}
        grey = {name: np.asarray(view.image_sr.mean(-1)) for name, view in seen.items()}
        grow = lambda mask: np.kron(np.asarray(mask) > 0.4, np.ones((2, 2))) > 0
        mouth, eyes = grow(seen["talking"].masks.mouth), grow(seen["still"].masks.eye)
        assert mouth.sum() > 40 and eyes.sum() > 40 and grey["still"].shape == (size, size)
        opened, shut = grey["talking"] - grey["still"], grey["asleep"] - grey["still"]
        assert np.abs(opened[mouth]).mean() > 0.1 and np.abs(shut[eyes]).mean() > 0.1
        darker.append(-opened[mouth].mean())
        lighter.append(shut[eyes].mean())
        corner = np.s_[: size // 8, : size // 8]
        assert np.abs(opened[corner]).mean() < 0.02 and np.abs(shut[corner]).mean() < 0.02
    assert np.mean(darker) > 0.2 and np.mean(lighter) > 0.1


# Measures -------------------------------------------------------------------------------------------------


def test_landmark_errors_are_in_eye_distances():
    points = np.random.default_rng(0).uniform(0.2, 0.8, (468, 2))
    points[[263, 362]], points[[33, 133]] = (0.7, 0.4), (0.3, 0.4)
    points[13], points[14] = (0.5, 0.60), (0.5, 0.64)
    indices = np.arange(468)
    assert evaluate_genhead.compare(points, points, indices)["landmarks"] == 0
    moved = evaluate_genhead.compare(points + np.array([0.04, 0.0]), points, indices)
    assert moved["landmarks"] == pytest.approx(0.1) and moved["mouth_opening"] == pytest.approx(0)
    opened = points.copy()
    opened[14, 1] += 0.08
    wide = evaluate_genhead.compare(opened, points, indices)
    assert wide["mouth_opening"] == pytest.approx(0.2) and wide["mouth_opening_asked"] == pytest.approx(0.1)


def test_a_solid_body_has_consistent_depth_and_a_flat_picture_has_not():
    """Views of the true mesh's own depth, against views whose depth is that of a plane facing each camera."""
    from p4d_jax import assets
    from p4d_jax.genhead.parts import pose_straight_parts
    from p4d_jax.render.raster import rasterize

    head = assets.head_model()
    cameras = tuple(look_at_camera(yaw, 0.0, 4.0, pivot=(0, 0, 0.09)) for yaw in (-0.4, 0.4))
    zeros = FrameParams(cameras[0], jnp.zeros(300), jnp.zeros(100), jnp.zeros(6), jnp.zeros(6))
    mesh = pose_straight_parts(head, zeros.shape, zeros).full
    seen = tuple(rasterize(mesh, head.faces, camera, 64) for camera in cameras)

    def error(depths, opacities):
        surfaces = tuple(map(Surface, depths, opacities, seen))
        return np.median(reprojected_depth_error(surfaces, cameras))

    solid = error([mesh.depth for mesh in seen], [mesh.mask.astype(jnp.float32) for mesh in seen])
    flat = error([jnp.full((64, 64), 3.8)] * 2, [jnp.ones((64, 64))] * 2)
    assert solid < 0.01 < 0.03 < flat
