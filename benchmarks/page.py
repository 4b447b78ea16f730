"""How the page feels in a real browser: seconds to the head, pictures a second, milliseconds behind the hand.

    python -m benchmarks.page [--photo=FILE] [--film=FILE] [--seconds=6] [--browser=/usr/bin/chromium]

Starts the page and headless Chromium with a webcam that shows a file: by default the astronaut, who moves
through its picture. Prints the seconds from an upload to its picture, then of dragging, of a film and of the
webcam: pictures a second on the screen and how old what they show is, from the movement of the mouse, or
from the moment at which the camera took its picture, until the canvas is drawn; of how many cores the server
and the browser used the time. All programs have run before.
"""

from __future__ import annotations

import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from p4d_jax import assets

PHOTO = flags.DEFINE_string("photo", "", "the photo that is brought; '' is the astronaut")
FILM = flags.DEFINE_string("film", "", "the film that is brought; '' is the clip that ships")
SECONDS = flags.DEFINE_float("seconds", 6.0, "of each way to move the head")
BROWSER = flags.DEFINE_string("browser", "/usr/bin/chromium", "Chromium")

# Milliseconds of a picture's way: until the webcam's picture is sent, face and tri-plane, drawing, all of the
# server's, from there to the browser and back.
PARTS = ("grab_ms", "move_ms", "draw_ms", "inside_ms", "travel_ms")
LISTEN = (
    "window.pictures = []; document.getElementById('picture').addEventListener('picture',"
    " (event) => window.pictures.push({...event.detail, at: performance.now()}))"
)


def moving_photo(path: Path, photo: np.ndarray, pictures: int = 60) -> None:
    """A webcam's film (.mjpeg): the photo going round in a picture of 640 x 480."""
    image = Image.fromarray(photo).resize((560, 560))
    with path.open("wb") as file:
        for index in range(pictures):
            angle = 2 * math.pi * index / pictures
            shown = Image.new("RGB", (640, 480), (120, 120, 120))
            shown.paste(image, (round(40 + 25 * math.cos(angle)), round(-20 + 15 * math.sin(angle))))
            shown.save(file, "JPEG", quality=90)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def processor_seconds(root: int) -> float:
    """What a process, its threads and its descendants have used of the processor; on Linux."""
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(stat.parent.name)], used[int(stat.parent.name)] = (
            int(fields[1]),
            sum(map(int, fields[11:13])),
        )
    is_of = lambda pid: pid == root or (pid in parents and is_of(parents[pid]))
    return sum(ticks for pid, ticks in used.items() if is_of(pid)) / os.sysconf("SC_CLK_TCK")


def summary(pictures: list[dict], seconds: float) -> dict:
    """What a while of pictures was like."""
    delays = [one["delay"] for one in pictures] or [math.nan]
    return {
        "pictures_a_second": round(len(pictures) / seconds, 1),
        "delay_ms_median": round(statistics.median(delays)),
        "delay_ms_worst": round(max(delays)),
        **{name: round(statistics.median([one[name] for one in pictures] or [math.nan])) for name in PARTS},
    }


def main(_: list[str]) -> None:
    from playwright.sync_api import sync_playwright

    port, folder = free_port(), Path(tempfile.mkdtemp())
    photo = Path(PHOTO.value or folder / "astronaut.png")
    if not PHOTO.value:
        Image.fromarray(assets.photo("astronaut")).save(photo)
    film = Path(FILM.value or assets.motion("motion_talk"))
    moving_photo(folder / "webcam.mjpeg", assets.photo("astronaut"))
    command = [sys.executable, "-m", "p4d_jax.main", "--config=configs/serve.py", f"--config.port={port}"]
    server = subprocess.Popen(command, env=os.environ)
    address = f"http://127.0.0.1:{port}/"
    try:
        while True:
            try:
                urllib.request.urlopen(address)
                break
            except OSError:
                time.sleep(0.2)
        with sync_playwright() as play:
            browser = play.chromium.launch(
                executable_path=BROWSER.value,
                args=[
                    "--no-sandbox",
                    "--use-fake-ui-for-media-stream",
                    "--use-fake-device-for-media-stream",
                    f"--use-file-for-fake-video-capture={folder / 'webcam.mjpeg'}",
                ],
            )
            measure(browser.new_page(), server.pid, address, photo, film)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def measure(page, server: int, address: str, photo: Path, film: Path) -> None:
    """Uses the page of a server, whose process is named, and prints."""
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_function("() => !document.getElementById('example').disabled", timeout=600_000)
    print(json.dumps({"prepared_s": round(time.perf_counter() - start, 1)}), flush=True)
    page.evaluate(LISTEN)
    start = time.perf_counter()
    page.set_input_files("#photo", photo)
    page.wait_for_function("() => window.pictures.some((one) => !one.coarse)", timeout=600_000)
    print(json.dumps({"upload_to_head_s": round(time.perf_counter() - start, 2)}), flush=True)

    def during(begin_with, turn) -> dict:
        begin_with()
        time.sleep(1.0)  # the first pictures are not of the usual case
        page.evaluate("window.pictures.length = 0")
        cores = lambda: np.array([processor_seconds(server), processor_seconds(os.getpid())])
        used, begin = cores(), time.perf_counter()
        while (now := time.perf_counter() - begin) < SECONDS.value:
            turn(now)
        of_server, of_all = (cores() - used) / now
        both = {"server_cores": round(of_server, 2), "browser_cores": round(of_all - of_server, 2)}
        return summary(page.evaluate("window.pictures"), now) | both

    box = page.locator("#picture").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def turn(now: float) -> None:
        page.mouse.move(middle[0] + 120 * math.sin(2 * now), middle[1] + 40 * math.cos(3 * now))
        page.wait_for_timeout(12)  # as often as a hand moves a mouse

    def hold() -> None:
        page.mouse.move(*middle)
        page.mouse.down()

    print(json.dumps({"dragging": during(hold, turn)}), flush=True)
    page.mouse.up()
    time.sleep(1.5)
    wait = lambda now: page.wait_for_timeout(50)
    page.set_input_files("#motion", film)
    page.wait_for_function("() => document.getElementById('play').textContent === 'Pause'", timeout=600_000)
    print(json.dumps({"film": during(lambda: None, wait)}), flush=True)
    page.click("#play")
    print(json.dumps({"webcam": during(lambda: page.click("#live"), wait)}), flush=True)


if __name__ == "__main__":
    app.run(main)
