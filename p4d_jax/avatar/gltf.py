"""A textured head as one binary glTF 2.0 file (`.glb`), which three.js, Blender and game engines open.

One mesh with morph targets by ARKit's names and a skin of five joints; its node shows the photo's expression,
and a camera node sees it as the photo does. The material is unlit (KHR_materials_unlit): the photo's light is
in its colours. Lengths are metres.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

import p4d_jax
from p4d_jax.avatar.textured_head import TexturedHead
from p4d_jax.head.model import PARENTS

JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
COMPONENTS = {"float32": 5126, "uint32": 5125, "uint8": 5121}
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071
NEAR, FAR = 0.1, 10.0  # metres from the camera
INFLUENCES = 4  # joints of a vertex


class Buffer:
    """The binary part of a file, and the views and accessors that name its pieces."""

    def __init__(self):
        self.data = bytearray()
        self.views: list[dict] = []
        self.accessors: list[dict] = []

    def add_bytes(self, content: bytes, target: int | None = None) -> int:
        """Appends bytes; the number of their view."""
        self.data += b"\0" * (-len(self.data) % 4)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.views.append(view | ({} if target is None else {"target": target}))
        self.data += content
        return len(self.views) - 1

    def add(self, values: np.ndarray, target: int | None = None, bounds: bool = False) -> int:
        """Appends an array (count,), (count, n) or (count, 4, 4); the number of its accessor."""
        kind = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}[values.shape[1:]]
        accessor = {
            "bufferView": self.add_bytes(np.ascontiguousarray(values).tobytes(), target),
            "componentType": COMPONENTS[values.dtype.name],
            "count": len(values),
            "type": kind,
        }
        if bounds:  # asked of positions
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def write_gltf(path: str | Path, head: TexturedHead) -> None:
    """Writes a head as a `.glb` file."""
    buffer = Buffer()
    picture = io.BytesIO()
    Image.fromarray(head.texture).save(picture, "PNG")
    joints, weights = influences(head.skinning_weights)
    attributes = {
        "POSITION": buffer.add(head.vertices, ARRAY_BUFFER, bounds=True),
        "NORMAL": buffer.add(head.normals, ARRAY_BUFFER),
        "TEXCOORD_0": buffer.add(head.uv, ARRAY_BUFFER),
        "COLOR_0": buffer.add(linear_colors(head.colors), ARRAY_BUFFER),
        "JOINTS_0": buffer.add(joints, ARRAY_BUFFER),
        "WEIGHTS_0": buffer.add(weights, ARRAY_BUFFER),
    }
    primitive = {
        "attributes": attributes,
        "indices": buffer.add(head.faces.reshape(-1), ELEMENT_ARRAY_BUFFER),
        "material": 0,
        "targets": [{"POSITION": buffer.add(target, ARRAY_BUFFER, bounds=True)} for target in head.targets],
    }
    inverse_bind = np.broadcast_to(np.eye(4, dtype=np.float32), (len(JOINTS), 4, 4)).copy()
    inverse_bind[:, 3, :3] = -head.joints  # column-major, as glTF stores matrices
    content = {
        "asset": {"version": "2.0", "generator": f"p4d_jax {p4d_jax.__version__}"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0, 1, 2]}],
        "nodes": nodes(head),
        "cameras": [camera(head)],
        "meshes": [
            {
                "name": "head",
                "primitives": [primitive],
                "weights": head.weights.tolist(),
                "extras": {"targetNames": list(head.target_names)},
            }
        ],
        "skins": [
            {
                "inverseBindMatrices": buffer.add(inverse_bind),
                "skeleton": 2,
                "joints": [2 + index for index in range(len(JOINTS))],
            }
        ],
        "materials": [
            {
                "name": "photo",
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": 0.0,
                    "roughnessFactor": 1.0,
                },
                "doubleSided": True,
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [
            {
                "magFilter": LINEAR,
                "minFilter": LINEAR_MIPMAP_LINEAR,
                "wrapS": CLAMP_TO_EDGE,
                "wrapT": CLAMP_TO_EDGE,
            }
        ],
        "images": [{"mimeType": "image/png", "bufferView": buffer.add_bytes(picture.getvalue())}],
    }
    content |= {"bufferViews": buffer.views, "accessors": buffer.accessors}
    Path(path).write_bytes(binary(content, bytes(buffer.data)))


def nodes(head: TexturedHead) -> list[dict]:
    """Nodes: the mesh, the camera, then the joints, each with its place beside its parent's."""
    turns = Rotation.from_rotvec(head.rotations).as_quat()  # x, y, z, w, as in glTF
    found = [
        {"name": "head", "mesh": 0, "skin": 0},
        {"name": "photo", "camera": 0, "matrix": np.asarray(head.camera.cam2world).T.reshape(-1).tolist()},
    ]
    for index, (name, parent) in enumerate(zip(JOINTS, PARENTS, strict=True)):
        place = head.joints[index] - (head.joints[parent] if parent >= 0 else 0)
        node = {"name": name, "translation": place.tolist(), "rotation": turns[index].tolist()}
        if children := [2 + child for child, above in enumerate(PARENTS) if above == index]:
            node["children"] = children
        found.append(node)
    return found


def camera(head: TexturedHead) -> dict:
    """The photo's camera, of a square picture."""
    focal = float(np.asarray(head.camera.intrinsics)[1, 1])  # in pictures' heights
    perspective = {"aspectRatio": 1.0, "yfov": 2 * float(np.arctan(0.5 / focal)), "znear": NEAR, "zfar": FAR}
    return {"name": "photo", "type": "perspective", "perspective": perspective}


def linear_colors(colors: np.ndarray) -> np.ndarray:
    """(N, 4) float32 of sRGB colours (N, 3) uint8, as glTF has colours of vertices."""
    value = colors.astype(np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.concatenate([linear, np.ones((len(linear), 1))], axis=1).astype(np.float32)


def influences(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (N, 4) uint8 and weights (N, 4), with sum one, of the joints that move each vertex most."""
    joints = np.argsort(-weights, axis=1)[:, :INFLUENCES]
    kept = np.take_along_axis(weights, joints, axis=1)
    kept /= kept.sum(axis=1, keepdims=True)
    return np.where(kept > 0, joints, 0).astype(np.uint8), kept.astype(np.float32)


def binary(content: dict, data: bytes) -> bytes:
    """A `.glb`: header, chunk of JSON, chunk of binary data, each filled up to four bytes."""
    data += b"\0" * (-len(data) % 4)
    content["buffers"] = [{"byteLength": len(data)}]
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
