"""The head as glTF in other programs: what the Khronos validator says, and how three.js and Blender show it.

    python -m benchmarks.gltf --avatar=runs/me/avatar.avatar --folder=runs/gltf [--blender=PYTHON]

Needs node, npm (which fetches the validator and three.js into the folder) and Chromium, which draws without a
screen; Blender where a Python with its module `bpy` is named. Each pose is compared with the avatar's own
picture of it: PSNR in dB on the front of the face, where both show it. Of a morph target also: how much the
pixels of the lids and those around the mouth change, in grey levels, on the mean, in ours and in theirs.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
import urllib.parse
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

import p4d_jax as p4d
from p4d_jax.avatar.gltf import write_gltf
from p4d_jax.avatar.textured_head import build_textured_head
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.render.raster import rasterize

AVATAR = flags.DEFINE_string("avatar", None, "file of an avatar", required=True)
FOLDER = flags.DEFINE_string("folder", None, "working folder, for the file and all pictures", required=True)
CHROMIUM = flags.DEFINE_string("chromium", "chromium", "the browser's command")
BLENDER = flags.DEFINE_string("blender", "", "a Python that has bpy; '' leaves Blender out")
VIEWERS = Path(__file__).parent / "gltf_viewers"
POSES = {"own": {}, "blink": {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}, "jaw": {"jawOpen": 0.5}}
FRONT = ("front", "lips", "eyelids", "left_eyeball", "right_eyeball")  # regions of the head that are compared
FINER = 2  # pixels of viewers to one of ours, along a side
PATIENCE = 120  # seconds that the browser has
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # draws without a graphics card
LIDS, MOUTH = slice(36, 48), slice(48, 68)  # of iBUG's 68 landmarks


def validate(folder: Path) -> dict:
    """Numbers of errors, warnings and hints of head.glb, and facts about it."""
    command = ["node", "validate.mjs", "head.glb"]
    return json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout)


class Desk(http.server.SimpleHTTPRequestHandler):
    """Gives the browser the folder's files, and keeps what it sends."""

    def __init__(self, *arguments, done: threading.Event, **keywords):
        self.done = done
        super().__init__(*arguments, **keywords)

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/done":
            self.done.set()
        else:
            (Path(self.directory) / f"three_{Path(self.path).name}").write_bytes(content)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def show_in_three(folder: Path, size: int) -> None:
    """three_NAME.png of each pose, drawn by three.js in Chromium."""
    done = threading.Event()
    handler = functools.partial(Desk, directory=str(folder), done=done)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        query = urllib.parse.urlencode({"size": size, "poses": json.dumps(POSES)})
        address = f"http://127.0.0.1:{server.server_address[1]}/three.html?{query}"
        command = [CHROMIUM.value, "--headless=new", "--no-sandbox", *SOFTWARE, address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            seen = done.wait(PATIENCE)
            browser.kill()
        server.shutdown()
    if not seen:
        raise RuntimeError(f"{CHROMIUM.value} has sent no pictures in {PATIENCE} s")


def show_in_blender(folder: Path, size: int) -> dict:
    """blender_NAME.png of each pose, and what Blender found in the file."""
    command = [BLENDER.value, "blender.py", "head.glb", ".", str(size), json.dumps(POSES)]
    said = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])


def front_of_face(avatar: p4d.Avatar, params: p4d.FrameParams) -> np.ndarray:
    """(S, S) bool, where a pose shows the front of the face."""
    head = avatar.model.head
    vertices = np.concatenate([np.asarray(head.regions[name]) for name in FRONT])
    front = np.isin(np.asarray(head.faces), vertices).all(axis=1)
    raster = rasterize(
        posed_vertices(head, avatar.params.shape, params), head.faces, params.camera, avatar.size
    )
    index = np.asarray(raster.face_index)
    return (index >= 0) & front[np.maximum(index, 0)]


def box_around(points: np.ndarray, size: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels around landmarks (N, 2) of a picture."""
    low, high = np.floor(points.min(axis=0) * size), np.ceil(points.max(axis=0) * size)
    (left, top), (right, bottom) = low.astype(int) - 2, high.astype(int) + 2
    return slice(top, bottom), slice(left, right)


def compare(avatar: p4d.Avatar, folder: Path, viewer: str) -> None:
    """Prints the figures of a viewer's pictures, and keeps a sheet of them: ours above, theirs below."""
    own, head = avatar.params, avatar.model.head
    points = project_landmarks(head, posed_vertices(head, own.shape, own), own.neck, own.camera)
    lids, mouth = (box_around(np.asarray(points)[part], avatar.size) for part in (LIDS, MOUTH))
    ours, theirs = {}, {}
    for name, weights in POSES.items():
        params = avatar.act(own, weights)
        ours[name] = avatar.render(params).picture.astype(float)
        picture = Image.open(folder / f"{viewer}_{name}.png").convert("RGB")
        theirs[name] = np.asarray(picture.resize(ours[name].shape[1::-1], Image.Resampling.BOX), float)
        there = front_of_face(avatar, params)
        psnr = 10 * np.log10(255**2 / ((ours[name] - theirs[name])[there] ** 2).mean())
        line = f"{viewer}, {name}: {psnr:.1f} dB to ours on the face"
        for part, box in (("lids", lids), ("mouth", mouth)):
            moved = [np.abs(pictures[name] - pictures["own"])[box].mean() for pictures in (ours, theirs)]
            line += f"; {part} change by {moved[1]:.1f} levels, ours by {moved[0]:.1f}"
        print(line, flush=True)
    rows = [np.concatenate([*pictures.values()], axis=1) for pictures in (ours, theirs)]
    Image.fromarray(np.concatenate(rows).astype(np.uint8)).save(folder / f"{viewer}_sheet.png")


def run(_) -> None:
    p4d.enable_compilation_cache()
    avatar, folder = p4d.load_avatar(AVATAR.value), Path(FOLDER.value)
    shutil.copytree(VIEWERS, folder, dirs_exist_ok=True)
    write_gltf(folder / "head.glb", build_textured_head(avatar))
    subprocess.run(["npm", "install", "--no-package-lock", "--silent"], cwd=folder, check=True)
    said = validate(folder)
    counts = ("numErrors", "numWarnings", "numInfos", "numHints")
    print("validator:", ", ".join(f"{said['issues'][name]} {name[3:].lower()}" for name in counts))
    show_in_three(folder, FINER * avatar.size)
    compare(avatar, folder, "three")
    if BLENDER.value:
        print("blender:", show_in_blender(folder, FINER * avatar.size))
        compare(avatar, folder, "blender")


if __name__ == "__main__":
    app.run(run)
