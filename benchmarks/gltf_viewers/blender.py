"""Opens head.glb in Blender and renders it as the photo's camera sees it; needs `bpy` and nothing else.

python blender.py head.glb FOLDER SIZE '{"own": {}, "jaw": {"jawOpen": 1.0}}'
"""

import json
import sys
from pathlib import Path

import bpy


def run(file: str, folder: str, size: str, poses: str) -> None:
    """One picture a pose; prints what was found in the file."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=file)
    (head,) = (thing for thing in bpy.data.objects if thing.type == "MESH" and thing.data.shape_keys)
    keys = head.data.shape_keys.key_blocks
    scene = bpy.context.scene
    scene.camera = next(thing for thing in bpy.data.objects if thing.type == "CAMERA")
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 16, False
    scene.render.resolution_x = scene.render.resolution_y = int(size)
    scene.view_settings.view_transform = "Standard"
    scene.render.image_settings.file_format = "PNG"
    own = {key.name: key.value for key in keys}
    for name, weights in json.loads(poses).items():
        for key in keys:
            key.value = weights.get(key.name, own[key.name])
        scene.render.filepath = str(
            Path(folder).resolve() / f"blender_{name}.png"
        )  # relative is to the .blend
        bpy.ops.render.render(write_still=True)
    bones = sum(len(thing.data.bones) for thing in bpy.data.objects if thing.type == "ARMATURE")
    print(json.dumps({"version": bpy.app.version_string, "shape_keys": len(keys) - 1, "bones": bones}))


if __name__ == "__main__":
    run(*sys.argv[1:])
