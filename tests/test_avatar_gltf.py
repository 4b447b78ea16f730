"""The head as glTF: what a reader of the file computes is the head model, moved by targets and joints."""

from __future__ import annotations

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from p4d_jax import assets
from p4d_jax.avatar.gltf import JOINTS, write_gltf
from p4d_jax.avatar.textured_head import TexturedHead, morph_targets
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.actions import ARKIT
from p4d_jax.head.model import PARENTS, WORLD_SCALE
from p4d_jax.head.skinning import head_joints, posed_vertices
from p4d_jax.types import FrameParams

TYPES = {5126: np.float32, 5125: np.uint32, 5121: np.uint8}
SHAPES = {"SCALAR": (), "VEC2": (2,), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}


@pytest.fixture(scope="module")
def scene():
    """The head that ships, its parameters in a photo, and it as a textured head without a picture."""
    head = assets.head_model("openhead")
    rng = np.random.default_rng(0)
    expression = jnp.zeros(100).at[head.expression_names.index("jawOpen")].set(0.3)
    pose = jnp.asarray([0.05, 0.2, 0.0, 0.15, 0.02, 0.0])
    eyes = jnp.asarray([0.05, 0.2, 0, 0.05, 0.18, 0])
    shape = jnp.asarray(rng.normal(0, 0.5, 300), jnp.float32)
    params = FrameParams(look_at_camera(0.0, 0.0, 4.0), shape, expression, pose, eyes)
    rest, targets, rotations, names, weights = morph_targets(head, params)
    zero = jnp.zeros(6)
    joints = np.asarray(head_joints(head, shape, jnp.zeros(100), zero, zero))
    textured = TexturedHead(
        vertices=rest / WORLD_SCALE, normals=np.full_like(rest, 3**-0.5),
        uv=np.zeros((len(rest), 2), np.float32),
        colors=np.full(rest.shape, 255, np.uint8), faces=np.asarray(head.faces, np.uint32),
        texture=np.zeros((4, 4, 3), np.uint8), target_names=names, targets=targets / WORLD_SCALE,
        weights=weights, joints=joints / WORLD_SCALE, rotations=rotations,
        skinning_weights=np.asarray(head.skinning_weights), camera=params.camera,
    )  # fmt: skip
    return head, params, textured


def read_glb(path) -> tuple[dict, list[np.ndarray], bytes]:
    """Content, arrays of its accessors, and binary chunk of a file; an independent reader."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    content = json.loads(data[20 : 20 + size])
    binary = data[28 + size :]
    assert len(binary) == content["buffers"][0]["byteLength"]
    arrays = []
    for accessor in content["accessors"]:
        view = content["bufferViews"][accessor["bufferView"]]
        shape = (accessor["count"], *SHAPES[accessor["type"]])
        flat = np.frombuffer(
            binary, TYPES[accessor["componentType"]], int(np.prod(shape)), view["byteOffset"]
        )
        arrays.append(flat.reshape(shape))
    return content, arrays, binary


def skinned(content: dict, arrays: list[np.ndarray]) -> np.ndarray:
    """(N, 3) vertices as a viewer has them: targets first, then joints."""
    (primitive,) = content["meshes"][0]["primitives"]
    get = lambda name: arrays[primitive["attributes"][name]]
    weights = content["meshes"][0]["weights"]
    moved = get("POSITION") + sum(
        weight * arrays[target["POSITION"]]
        for weight, target in zip(weights, primitive["targets"], strict=True)
    )
    skin = content["skins"][0]
    inverse_bind = arrays[skin["inverseBindMatrices"]].swapaxes(1, 2)
    world = []
    for joint, parent in zip(skin["joints"], PARENTS, strict=True):
        node = content["nodes"][joint]
        local = np.eye(4)
        local[:3, :3] = Rotation.from_quat(node["rotation"]).as_matrix()
        local[:3, 3] = node["translation"]
        world.append(local if parent < 0 else world[parent] @ local)
    matrices = np.stack(world) @ inverse_bind
    homogeneous = np.concatenate([moved, np.ones((len(moved), 1))], axis=1)
    each = np.einsum("jab,nb->nja", matrices, homogeneous)[..., :3]
    chosen = np.take_along_axis(each, get("JOINTS_0").astype(int)[..., None], axis=1)
    return (get("WEIGHTS_0")[..., None] * chosen).sum(axis=1)


def test_a_viewer_shows_the_head_as_it_is_in_the_photo(scene, tmp_path):
    head, params, textured = scene
    write_gltf(tmp_path / "head.glb", textured)
    content, arrays, binary = read_glb(tmp_path / "head.glb")
    wanted = np.asarray(posed_vertices(head, params.shape, params)) / WORLD_SCALE
    # A target turns the jaw along a line and not an arc: half a millimetre at the chin.
    np.testing.assert_allclose(skinned(content, arrays), wanted, atol=1.5e-3)
    assert np.abs(skinned(content, arrays) - wanted).mean() < 1e-4
    assert content["meshes"][0]["extras"]["targetNames"] == ARKIT
    assert [content["nodes"][joint]["name"] for joint in content["skins"][0]["joints"]] == list(JOINTS)
    camera = content["cameras"][0]["perspective"]
    assert np.degrees(camera["yfov"]) == pytest.approx(12, abs=1e-3)
    view = content["bufferViews"][content["images"][0]["bufferView"]]
    (tmp_path / "texture.png").write_bytes(binary[view["byteOffset"] :][: view["byteLength"]])
    assert Image.open(tmp_path / "texture.png").size == (4, 4)


def test_targets_do_all_of_an_action(scene):
    head, _, textured = scene
    moved = dict(zip(textured.target_names, textured.targets, strict=True))
    regions = {name: np.asarray(index) for name, index in head.regions.items()}
    jaw = np.asarray(head.skinning_weights)[:, 2] > 0.9
    assert moved["jawOpen"][jaw][:, 1].mean() < -0.005  # a centimetre or so down
    for side in ("Left", "Right"):
        eyeball = regions[f"{side.lower()}_eyeball"]
        assert np.abs(moved[f"eyeLookUp{side}"][eyeball]).max() > 0.002
        other = regions[f"{'right' if side == 'Left' else 'left'}_eyeball"]
        assert np.abs(moved[f"eyeLookUp{side}"][other]).max() < 1e-4
        assert np.abs(moved[f"eyeBlink{side}"][regions["eyelids"]]).max() > 0.003
