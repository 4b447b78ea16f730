"""The page's server: who may speak to it, whose data it shows, what it refuses; from photo to film."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from synthetic_reconstructor import save_random_weights

import p4d_jax as p4d
from p4d_jax import assets, main
from p4d_jax.imaging.watermark import FOUND, invisible_score
from p4d_jax.serve.app import Limits, Server, pack, unpack
from p4d_jax.serve.view import MOST_TURN, View, apply_view
from p4d_jax.serve.worker import Worker

HERE = "http://127.0.0.1:8014"
LIVE = "ws://127.0.0.1:8014/live"
LIMITS = Limits(photo_bytes=3_000_000, motion_bytes=1_000_000, frames=3, sessions=4, away_seconds=0.0)


def as_file(picture: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Server:
    """A small network of noise behind the page."""
    weights = save_random_weights(tmp_path_factory.mktemp("weights") / "tiny.npz")
    return Server(p4d.AvatarModel.load(weights), LIMITS, ("visible", "invisible"))


@pytest.fixture(scope="module")
def page(server):
    """The page, prepared."""
    with TestClient(server.application(), base_url=HERE) as client:
        deadline = time.monotonic() + 300
        while not server.ready:
            assert time.monotonic() < deadline and "cannot" not in server.said, server.said
            time.sleep(0.1)
        yield client


class Visitor:
    """Somebody with an open page."""

    def __init__(self, page: TestClient, session: str | None = None):
        self.page = page
        self.socket = page.websocket_connect(LIVE, headers={"origin": HERE})
        self.socket.__enter__()
        self.socket.send_json({"session": session})
        self.hello = self.socket.receive_json()
        self.token = self.hello.get("session")

    def post(self, path: str, content: bytes | dict = b"", name: str = ""):
        content = json.dumps(content).encode() if isinstance(content, dict) else content
        headers = {"x-session": self.token, "x-name": name, "origin": HERE}
        return self.page.post(path, content=content, headers=headers)

    def look(self, webcam: bytes = b"", **view) -> tuple[dict, np.ndarray | str]:
        """The answer to a view: header and picture, or the message."""
        if webcam:
            self.socket.send_bytes(pack(view, webcam))
        else:
            self.socket.send_json(view)
        while True:
            message = self.socket.receive()
            if message.get("bytes"):
                header, content = unpack(message["bytes"])
                return json.loads(header), np.asarray(Image.open(io.BytesIO(content)))
            said = json.loads(message["text"])
            if said["type"] == "error":
                return said, said["said"]

    def leave(self) -> None:
        self.socket.__exit__(None, None, None)


@pytest.fixture
def visitor(page):
    one = Visitor(page)
    yield one
    one.leave()


@pytest.fixture(scope="module")
def anna(page, photo):
    """A visitor with the astronaut's head."""
    one = Visitor(page)
    answer = one.post("/photo", as_file(photo), "me.png")
    assert answer.status_code == 200 and answer.json()["head"]
    yield one
    one.leave()


# The walk ---------------------------------------------------------------------------------------------------


def test_a_photo_becomes_a_head_that_turns_and_moves(anna):
    header, rest = anna.look(number=1)
    assert header["number"] == 1 and rest.shape == (128, 128, 3)
    header, coarse = anna.look(number=2, coarse=True)
    assert header["coarse"] and 0 < np.abs(coarse.astype(int) - rest).mean() < 60  # half as many rays a side
    same = lambda **view: np.abs(anna.look(**view)[1].astype(int) - rest).mean()
    assert same() < 0.5
    moved = {name: same(**{name: 1.0}) for name in ("orbit_x", "orbit_y", "turn_x", "mouth", "blink_left")}
    assert min(moved.values()) > 0.5, moved
    assert anna.look(picture="mesh")[1].std() > 1
    for picture in ("depth", "alpha"):
        assert np.abs(anna.look(picture=picture)[1].astype(int) - rest).mean() > 1


def test_the_webcam_moves_the_head(anna, photo):
    anna.socket.send_json({"start_live": True})
    first, still = anna.look(as_file(photo, "JPEG"), mover="live", coarse=True)
    shifted = np.roll(photo, 40, axis=1)
    for _ in range(3):
        header, moved = anna.look(as_file(shifted, "JPEG"), mover="live", coarse=True)
    assert first["face"] and header["face"]
    assert np.abs(moved.astype(int) - still).mean() > 1
    assert anna.look(as_file(np.zeros((64, 64, 3), np.uint8)), mover="live")[0]["face"] is False
    assert "cannot be read" in anna.look(b"no picture", mover="live")[1]


def test_what_is_taken_home_can_be_used(anna, tmp_path):
    assert anna.post("/take", {"kind": "film"}).status_code == 400  # nothing moves it yet
    clip = assets.motion("motion_talk").read_bytes()
    state = anna.post("/motion", clip, "talk.npz").json()
    assert state["film"]["name"] == "talk.npz" and 0 < state["film"]["seconds"] < 1
    assert np.abs(anna.look(mover="film", time=0.08)[1].astype(int) - anna.look()[1]).mean() > 0.1
    files = {}
    for kind in ("still", "film", "motion", "avatar"):  # glTF has a test of its own
        answer = anna.post("/take", {"kind": kind, "view": {"orbit_x": 0.2}})
        assert answer.status_code == 200, answer.text
        name = answer.headers["content-disposition"].split('"')[1]
        files[kind] = tmp_path / name
        files[kind].write_bytes(answer.content)
    still = np.asarray(Image.open(files["still"]))
    assert invisible_score(still) > FOUND
    assert len(p4d.Motion.load(files["motion"])) == LIMITS.frames
    assert p4d.load_avatar(files["avatar"]).render().picture.shape == (128, 128, 3)
    assert files["film"].stat().st_size > 1000
    before = anna.look()[1]
    assert anna.post("/example").status_code == 200 and np.any(anna.look(orbit_x=0.1)[1] != before)
    answer = anna.post("/avatar", files["avatar"].read_bytes(), "head.avatar")
    assert answer.status_code == 200 and answer.json()["head"]
    np.testing.assert_array_equal(anna.look()[1], before)
    assert anna.page.get("/crop", headers={"x-session": anna.token}).status_code == 200


def test_an_avatar_of_another_kind_is_refused(anna, server, tmp_path):
    before = anna.look()[1]
    server._example.avatar.replace(resolution=16).save(tmp_path / "other.avatar")
    for content in (
        (tmp_path / "other.avatar").read_bytes(),
        b"no avatar",
        assets.motion("motion_talk").read_bytes(),
    ):
        answer = anna.post("/avatar", content, "other.avatar")
        assert answer.status_code == 400 and "avatar" in answer.json()["said"], answer.text
    assert anna.post("/avatar", b"x", "other.png").status_code == 400
    np.testing.assert_array_equal(anna.look()[1], before)


def test_a_recording_becomes_the_film(anna, photo):
    assert anna.post("/record", {"keep": False}).status_code == 200
    for _ in range(3):
        anna.look(as_file(photo, "JPEG"), mover="live", coarse=True)
    assert anna.post("/record", {"keep": True}).json()["film"]["name"] == "recording"
    assert anna.look(mover="film", time=0.0)[1].shape == (128, 128, 3)


# Whose data -------------------------------------------------------------------------------------------------


def test_two_people_see_nothing_of_each_other(page, server, anna):
    bea = Visitor(page)
    assert bea.token != anna.token and len(bea.token) > 40
    assert not bea.hello["state"]["head"] and "no head" in bea.look(number=1)[1]
    assert page.get("/crop", headers={"x-session": bea.token}).status_code == 404
    assert bea.post("/take", {"kind": "still"}).status_code == 400
    folders = [server.sessions.find(one.token).folder for one in (anna, bea)]
    assert folders[0] != folders[1] and not any(folders[1].iterdir())
    assert all(oct(folder.stat().st_mode & 0o777) == "0o700" for folder in folders)
    for guess in ("", "x", anna.token[:-1], bea.token + "x"):
        assert page.get("/crop", headers={"x-session": guess}).status_code == 404
    bea.leave()


def test_uploads_go_with_their_session(page, server, photo):
    carl = Visitor(page)
    carl.post("/photo", as_file(photo), "me.png")
    folder = server.sessions.find(carl.token).folder
    assert any(folder.iterdir())
    assert carl.post("/end").status_code == 200
    assert not folder.exists() and carl.post("/take", {"kind": "still"}).status_code == 404
    carl.leave()
    dora = Visitor(page)
    folder = server.sessions.find(dora.token).folder
    dora.post("/motion", assets.motion("motion_talk").read_bytes(), "talk.npz")
    assert any(folder.iterdir())
    dora.leave()  # closes the page without a word
    deadline = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_reloaded_page_finds_its_head_again(page, anna):
    again = Visitor(page, anna.token)
    assert again.token == anna.token and again.hello["state"]["head"]
    again.leave()
    stranger = Visitor(page, "not a token")
    assert stranger.token not in (anna.token, "not a token") and not stranger.hello["state"]["head"]
    stranger.leave()


def test_a_full_page_says_so(page, server):
    crowd = [Visitor(page) for _ in range(LIMITS.sessions + 1)]
    assert crowd[-1].hello["type"] == "full" and "4 people" in crowd[-1].hello["said"]
    for one in crowd:
        if one.token:
            one.post("/end")
        one.leave()


# Who may speak to it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8014", "192.168.0.7:8014", "127.0.0.1.evil.example", ""]
)
def test_another_host_is_refused(page, host):
    assert page.get("/", headers={"host": host}).status_code == 403
    with pytest.raises(WebSocketDisconnect), page.websocket_connect("/live", headers={"host": host}):
        pass


def test_another_sites_script_is_refused(page, anna):
    foreign = {"origin": "https://evil.example", "x-session": anna.token}
    assert page.get("/crop", headers=foreign).status_code == 403
    assert page.post("/end", headers=foreign).status_code == 403
    with pytest.raises(WebSocketDisconnect), page.websocket_connect(LIVE, headers=foreign):
        pass


def test_with_a_token_nobody_enters_without_it(server):
    token = "a-token-of-some-length"
    client = TestClient(server.application(token), base_url="http://10.1.2.3:8014")  # without its lifespan
    assert client.get("/").status_code == 403
    assert client.get("/?token=wrong").status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(LIVE):
        pass
    answer = client.get(f"/?token={token}", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/"  # it does not stay in the address
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert client.get("/").status_code == 200


def test_another_address_needs_a_token(tmp_path, capsys):
    command = ["p4d", "serve", f"--workdir={tmp_path}", "--host=0.0.0.0"]
    assert main.main(command) == 2
    said = capsys.readouterr().err
    assert "config.host='0.0.0.0'" in said and "config.token" in said
    assert main.main([*command, "--token=short"]) == 2


def test_the_page_is_whole_and_asks_nobody_else(page):
    for path in ("/", "/page.css", "/page.js", "/icon.svg"):
        answer = page.get(path)
        assert answer.status_code == 200
        assert (
            "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
            and "https://" not in answer.text
        )
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert page.get("/page.py").status_code == 404 and page.get("/../setup.py").status_code == 404
    assert "agreed to it" in page.get("/").text


# What it refuses --------------------------------------------------------------------------------------------


def bad_uploads(photo: np.ndarray) -> list[tuple[str, str, bytes]]:
    """(path, name, content) of thirty files that are of no use."""
    png, jpg = as_file(photo), as_file(photo, "JPEG")
    grey = as_file(np.full((300, 300, 3), 128, np.uint8))
    noise = as_file(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    bomb = png[:16] + (60_000).to_bytes(4, "big") * 2 + png[24:]  # a header that says 60,000 pixels a side
    photos = [
        ("me.png", b""), ("me.png", b"hello"), ("me.png", png[:100]), ("me.png", png[: len(png) // 2]),
        ("me.jpg", jpg[:200]), ("me.jpg", b"\xff\xd8\xff" + bytes(1000)), ("me.png", grey), ("me.png", noise),
        ("me.png", as_file(photo[:8, :8])), ("me.png", as_file(photo[:1])), ("me.png", bomb), ("me", png),
        ("me.png", bytes(4_000_000)), ("me.txt", b"hello"), ("", png), ("me.svg", b"<svg/>"),
        ("../me.exe", png), ("me.heic", bytes(500)), ("me.tif", b"II*\0" + bytes(60)), ("me.gif", b"GIF89a"),
        ("me.webp", b"RIFF\x10\0\0\0WEBPVP8 "), ("small.png", as_file(photo[::16, ::16])),
    ]  # fmt: skip
    motions = [
        ("clip.mp4", b""), ("clip.mp4", b"hello"), ("clip.mp4", bytes(2_000_000)), ("clip.npz", b"PK\3\4no"),
        ("clip.npz", b"hello"), ("clip.avi", b"RIFF" + bytes(100)), ("clip.pkl", b"\x80\x04."),
        ("clip.png", grey),
    ]  # fmt: skip
    return [*(("/photo", *one) for one in photos), *(("/motion", *one) for one in motions)]


def test_thirty_bad_uploads_are_thirty_messages(page, server, anna, photo):
    folder = server.sessions.find(anna.token).folder
    uploads = bad_uploads(photo)
    assert len(uploads) == 30
    for path, name, content in uploads:
        answer = anna.post(path, content, name)
        assert 400 <= answer.status_code < 500, (path, name, answer.status_code, answer.text)
        said = answer.json()["said"]
        assert said and "\n" not in said and len(said) < 500, said
        assert str(folder) not in said and "Traceback" not in said, said
    assert anna.look(number=9)[1].shape == (128, 128, 3)  # the head is still there


@pytest.mark.parametrize(
    "message",
    [
        "no json",
        "[1]",
        '{"orbit_x": "far"}',
        '{"number": -1}',
        '{"smile": NaN}',
        '{"fly": 1}',
        '{"coarse": 1}',
    ],
)
def test_a_bad_message_is_answered(anna, message):
    anna.socket.send_text(message)
    said = anna.socket.receive_json()
    assert said["type"] == "error" and said["said"]
    assert anna.look(number=3)[0]["number"] == 3


def test_bad_requests_are_answered(anna):
    assert anna.post("/take", {"kind": "everything"}).status_code == 400
    assert anna.post("/take", {"kind": "still", "view": {"orbit_x": "x"}}).status_code == 400
    assert anna.post("/person", {"person": "me"}).status_code == 400
    assert anna.post("/take", b"no json").status_code == 400
    assert anna.post("/take", bytes(20_000)).status_code == 413


# In a real browser ------------------------------------------------------------------------------------------

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="no Chromium on this machine, or no playwright: the page is not tried in a browser",
)
IS_STILL = "document.getElementById('picture').getAttribute('aria-busy') === 'false'"
IS_DONE = f"!document.getElementById('photo2').disabled && {IS_STILL}"  # of a job, and its picture shown
HEARS = (
    "window.pictures = []; document.getElementById('picture').addEventListener('picture',"
    " (event) => window.pictures.push(event.detail))"
)


@pytest.fixture(scope="module")
def address(server, page) -> str:
    """A second page of the same network, on a port; the first one has compiled its programs."""
    other = Server(server.model, Limits(frames=3, away_seconds=5.0, personalise_steps=2))
    settings = uvicorn.Config(other.application(), port=0, log_level="error")
    listener = uvicorn.Server(settings)
    thread = threading.Thread(target=listener.run)
    thread.start()
    while not (listener.started and other.ready):
        assert thread.is_alive() and "cannot" not in other.said
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listener.servers[0].sockets[0].getsockname()[1]}/"
    listener.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def files(tmp_path_factory, photo) -> Path:
    """What is brought: a photo, films, and one second of a webcam."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(photo).save(folder / "me.jpg", quality=95)
    Image.fromarray(np.hstack([photo, photo[:, ::-1] // 2])).save(folder / "two.jpg", quality=95)
    shifted = [np.roll(photo, 12 * step, axis=1) for step in range(4)]
    p4d.save_video(folder / "clip.mp4", shifted)
    with (folder / "webcam.mjpeg").open("wb") as webcam:
        for picture in shifted + shifted[::-1]:
            Image.fromarray(picture).save(webcam, "JPEG")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def chromium(files):
    from playwright.sync_api import sync_playwright

    flags = [
        "--no-sandbox",
        "--disable-background-networking",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={files / 'webcam.mjpeg'}",
    ]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


class Tab:
    """A tab of somebody else's browser, and what its console complains about."""

    def __init__(self, chromium, address: str, **options):
        self.context = chromium.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)  # on a busy machine
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        self.page.goto(address)
        self.page.evaluate(HEARS)

    def bring(self, photo: Path) -> None:
        self.page.set_input_files("#photo", photo)
        self.page.wait_for_selector("#picture:visible")
        self.until(IS_DONE)

    def until(self, condition: str) -> None:
        self.page.wait_for_function(f"() => {condition}")

    def newer(self, act) -> None:
        """Acts, and waits until the picture shows in full what came of it."""
        act()
        self.until(IS_STILL)

    def take_home(self, kind: str, folder: Path) -> Path:
        with self.page.expect_download() as coming:
            self.page.click(f"button[data-kind={kind}]")
        path = folder / coming.value.suggested_filename
        coming.value.save_as(path)
        self.until(IS_DONE)
        return path

    def pixels(self) -> np.ndarray:
        return np.asarray(
            Image.open(io.BytesIO(self.page.locator("#picture").screenshot())).convert("RGB"), int
        )

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def tab(chromium, address):
    one = Tab(chromium, address)
    yield one
    one.close()


@needs_browser
def test_a_hand_turns_the_head_and_moves_its_face(tab, files):
    assert tab.page.locator("#empty").is_visible() and tab.page.locator("#slider_mouth").is_disabled()
    tab.bring(files / "me.jpg")
    rest = tab.pixels()
    box = tab.page.locator("#picture").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag() -> None:
        tab.page.mouse.move(*middle)
        tab.page.mouse.down()
        for step in range(10):
            tab.page.mouse.move(middle[0] + 12 * step, middle[1])
        tab.page.mouse.up()

    tab.newer(drag)
    turned = tab.pixels()
    assert np.abs(turned - rest).mean() > 0.5
    tab.newer(lambda: tab.page.keyboard.press("Home"))
    assert np.abs(tab.pixels() - rest).mean() < np.abs(turned - rest).mean() / 4
    tab.newer(lambda: tab.page.locator("#slider_mouth").press("End"))
    assert np.abs(tab.pixels() - rest).mean() > 0.1
    tab.newer(lambda: tab.page.locator("#picture").press("ArrowLeft"))
    tab.newer(lambda: tab.page.get_by_label("Depth").check())
    tab.page.keyboard.press("b")
    assert tab.page.locator("#before").is_visible()
    tab.until("document.getElementById('before').naturalWidth === 512")
    assert tab.complaints == []


@needs_browser
def test_webcam_and_film_move_it_and_files_go_home(tab, files, tmp_path):
    tab.bring(files / "me.jpg")
    tab.page.click("#live")
    tab.until("window.pictures.filter((one) => one.face).length > 3")
    tab.page.click("#record")
    tab.until("document.getElementById('record').textContent.startsWith('Stop')")
    tab.page.evaluate("window.pictures.length = 0")
    tab.until("window.pictures.filter((one) => one.face).length > 2")
    tab.page.click("#record")
    tab.until("document.getElementById('play').textContent === 'Pause'")
    tab.page.set_input_files("#motion", files / "clip.mp4")
    tab.until("document.getElementById('message').hidden && !document.getElementById('photo2').disabled")
    tab.page.evaluate("window.pictures.length = 0")
    tab.until("window.pictures.length > 3")
    tab.newer(lambda: tab.page.click("#play"))
    still, film, motion = (tab.take_home(kind, tmp_path) for kind in ("still", "film", "motion"))
    assert (still.name, film.name, motion.name) == ("head.png", "film.mp4", "motion.npz")
    assert invisible_score(np.asarray(Image.open(still))) < FOUND  # this page was asked for no mark
    assert len(p4d.Motion.load(motion)) == 3 and film.read_bytes()[4:8] == b"ftyp"
    assert tab.complaints == []


@needs_browser
def test_a_face_of_two_is_chosen_personalised_taken_home_and_brought_again(tab, files, tmp_path):
    tab.bring(files / "two.jpg")
    tab.page.wait_for_selector("#faces button >> nth=1")
    faces, seen = tab.page.locator("#faces button"), []
    assert faces.all_inner_texts() == ["1", "2"]
    for index in range(2):
        faces.nth(index).click()
        tab.until(IS_DONE)
        seen.append(tab.pixels())
    assert seen[1].mean() < 0.8 * seen[0].mean()  # the right one is dark
    tab.page.click("#personalise")
    tab.until(IS_DONE)
    assert tab.page.locator("#personalise").inner_text() == "Personalised"
    mine = tab.pixels()
    assert np.abs(mine - seen[1]).mean() > 0
    scene, avatar = (tab.take_home(kind, tmp_path) for kind in ("gltf", "avatar"))
    assert (scene.name, scene.read_bytes()[:4], avatar.name) == ("head.glb", b"glTF", "head.avatar")
    tab.bring(files / "me.jpg")
    assert np.abs(tab.pixels() - mine).mean() > 10 and faces.count() == 0
    tab.page.set_input_files("#photo2", avatar)
    tab.until(IS_DONE)
    assert tab.page.locator("#personalise").inner_text() == "Personalised"
    assert np.abs(tab.pixels() - mine).mean() < 0.5
    assert tab.complaints == []


@needs_browser
def test_a_reload_keeps_the_head_and_delete_ends_it(tab, files):
    tab.bring(files / "me.jpg")
    tab.page.reload()
    tab.page.wait_for_selector("#picture:visible")
    tab.page.click("#end")
    tab.page.wait_for_selector("#empty:visible")
    assert "deleted" in tab.page.locator("#status").inner_text() and tab.complaints == []
    tab.page.reload()
    tab.page.wait_for_function("() => document.getElementById('status').textContent === ''")
    assert tab.page.locator("#picture").is_hidden() and tab.complaints == []


@needs_browser
def test_two_browsers_have_two_heads_and_a_bad_file_harms_none(tab, chromium, address, files):
    tab.bring(files / "me.jpg")
    other = Tab(
        chromium, address, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True
    )
    assert other.page.locator("#picture").is_hidden()
    for name in ("bad.png", "clip.mp4"):
        other.page.set_input_files("#photo", files / name)
        other.page.wait_for_selector("#message:visible")
        assert name in other.page.locator("#message").inner_text()
    assert len(other.complaints) == 2 and all("status of 400" in said for said in other.complaints)
    assert other.page.evaluate("() => document.documentElement.scrollWidth") <= 360
    other.bring(files / "me.jpg")
    other.close()
    tab.newer(lambda: tab.page.locator("#picture").press("ArrowRight"))
    assert tab.complaints == []


# Its parts --------------------------------------------------------------------------------------------------


def test_a_worker_keeps_the_newest_task_of_each_key_and_takes_turns():
    worker, gate, done = Worker("test"), threading.Event(), []
    worker.submit("x", gate.wait)
    while worker._waiting:
        time.sleep(0.001)
    futures = [
        worker.submit(key, lambda key=key, n=n: done.append((key, n))) for n in range(3) for key in "ab"
    ]
    gate.set()
    futures[-1].result(5)
    assert done == [("a", 2), ("b", 2)]
    assert [one.cancelled() for one in futures] == [True] * 4 + [False] * 2
    with pytest.raises(ZeroDivisionError):
        worker.submit("a", lambda: 1 / 0).result(5)
    assert worker.submit("a", lambda: 7).result(5) == 7  # and goes on
    worker.close()
    assert worker.submit("a", lambda: 7).cancelled()


def test_a_view_at_rest_changes_nothing_and_sliders_add(server):
    avatar = server._example.avatar
    frame = avatar.params
    assert apply_view(avatar, frame, View()) is frame
    names = avatar.model.head.expression_names
    smiling = apply_view(avatar, frame, View(smile=1.0))
    changed = {
        name for name, a, b in zip(names, smiling.expression, frame.expression, strict=False) if a != b
    }
    assert changed <= {"mouthSmileLeft", "mouthSmileRight", "cheekSquintLeft", "cheekSquintRight"}
    assert float(smiling.expression.max()) <= 1
    turned = apply_view(avatar, frame, View(turn_x=0.5))
    np.testing.assert_allclose(turned.neck - frame.neck, [0, MOST_TURN / 2, 0], atol=1e-6)
    looking = apply_view(avatar, frame, View(gaze_x=1.0))
    np.testing.assert_allclose((looking.eyes - frame.eyes)[1], np.deg2rad(30), atol=1e-5)
    assert View.read({"orbit_x": 7, "time": -3}) == View(orbit_x=1.0, time=0.0)


def test_the_files_of_the_page_are_installed():
    package = Path(p4d.__file__).parent / "serve/page"
    assert {path.name for path in package.iterdir()} == {"index.html", "page.css", "page.js", "icon.svg"}
