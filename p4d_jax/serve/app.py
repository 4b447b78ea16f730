"""The page's server: what a browser can ask for.

    GET  /, /page.css, /page.js, /icon.svg     the page itself; nothing comes from elsewhere
    WS   /live                                 views asked for, pictures given; the webcam; progress
    POST /photo, /avatar, /motion              files: the body is the file, `x-name` its name
    POST /example, /person, /personalise       a head of the example, of another face, fitted to its photo
    POST /record, /take, /end                  a recording, a file to take home, the end of all of it
    GET  /crop                                 the photo as the head is seen

All but the page itself need the header `x-session`: what the first message of /live has told. Binary messages
are a length (4 bytes, least first), so many bytes of JSON, then a JPEG.

Three threads compute, each with tasks of all sessions in turn. A picture is made by two: one moves the head,
by sliders, the film or the face that it finds in the webcam's picture; one draws it, while the first is at
the next. Of a session one task waits for each, the newest. The third makes heads, reads films and writes
files. Messages are said on the loop's own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import logging
import struct
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from p4d_jax.avatar.model import AvatarModel
from p4d_jax.capture.landmarks import Landmarker
from p4d_jax.errors import UserError
from p4d_jax.imaging.reading import PHOTO_SUFFIXES
from p4d_jax.imaging.video import FILM_SUFFIXES
from p4d_jax.serve.guard import Guard
from p4d_jax.serve.session import HOME, Posed, Session, Sessions, Stopped, draw
from p4d_jax.serve.view import View
from p4d_jax.serve.worker import Worker

PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MOTION_SUFFIXES = (".npz", ".csv", *FILM_SUFFIXES, *PHOTO_SUFFIXES)
AVATAR_SUFFIX = Path(HOME["avatar"]).suffix
LARGEST_MESSAGE = 1 << 20  # bytes of a webcam's picture with its view
LARGEST_WEBCAM = 1280 * 960  # pixels of it
QUALITY, COARSE_QUALITY = 92, 85  # of JPEG
SWEEP_SECONDS = 2.0
EXAMPLE = "astronaut"

log = logging.getLogger("p4d_jax.serve")


@dataclass(frozen=True)
class Limits:
    """What one person may bring.

    Attributes:
      photo_bytes, avatar_bytes, motion_bytes: Largest files.
      frames: Frames of a film that are used.
      sessions: People at once.
      away_seconds: After which somebody who is not connected has gone, and the files with them.
      personalise_steps: Of the button.
    """

    photo_bytes: int = 20_000_000
    avatar_bytes: int = 100_000_000
    motion_bytes: int = 100_000_000
    frames: int = 240
    sessions: int = 8
    away_seconds: float = 60.0
    personalise_steps: int = 25


class Superseded(Exception):
    """A newer task has taken the place of one that waited."""


class Refused(Exception):
    """An answer that is not 200: its status, and one line for the person."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Server:
    """The page's state, and its routes."""

    def __init__(self, model: AvatarModel, limits: Limits, marks: tuple[str, ...] = ()):
        """A server that has not begun.

        Args:
          model: What makes avatars.
          limits: What one person may bring.
          marks: Watermarks of pictures and films that are taken home.
        """
        self.model, self.limits = model, limits
        self.sessions = Sessions(lambda: Session(model, marks), limits.sessions, limits.away_seconds)
        self.ready = False
        self.said = "starting"
        self._sockets: dict[str, set[Channel]] = {}
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task] = set()
        self._example: Session | None = None

    # Its beginning and end ------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def life(self, _: Starlette):
        """Prepares the programs while it already answers, and deletes everything at the end."""
        self._loop = asyncio.get_running_loop()
        self.motions, self.pictures, self.jobs = (Worker(name) for name in ("motions", "pictures", "jobs"))
        self._spawn(self._prepare())
        sweeper = self._spawn(self._sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            for session in self.sessions.everyone():
                session.stop.set()
            for worker in (self.motions, self.pictures, self.jobs):
                worker.close()
            self.sessions.close()
            if self._example is not None:
                self._example.end()

    async def _prepare(self) -> None:
        """Makes the example's head and one picture of each kind, so that all programs are compiled."""
        example = self._example = Session(self.model)
        start = time.perf_counter()

        def on_jobs() -> None:
            self.say_to_all("preparing: the networks that find faces (1 of 4)")
            self._jobs_landmarker = Landmarker()
            self.say_to_all("preparing: the head of the example (2 of 4); the first time this takes minutes")
            example.take_photo(EXAMPLE, self._jobs_landmarker, lambda text: None)

        def on_pictures() -> None:
            self.say_to_all("preparing: coarse and fine pictures (3 of 4)")
            for picture in ("photo", "mesh"):
                for coarse in (True, False):
                    example.picture(View(picture=picture, coarse=coarse, smile=0.5, gaze_x=0.1, orbit_x=0.1))

        def on_motions() -> None:
            self.say_to_all("preparing: the webcam (4 of 4)")
            self._live_landmarker = Landmarker(threads=1)  # the other core draws
            for _ in range(3):
                example.see(np.asarray(example.avatar.photo), self._live_landmarker)
            example.picture(View(mover="live", coarse=True, smile=0.5))

        try:
            await asyncio.wrap_future(self.jobs.submit("prepare", on_jobs))
            await asyncio.wrap_future(self.pictures.submit("prepare", on_pictures))
            await asyncio.wrap_future(self.motions.submit("prepare", on_motions))
        except asyncio.CancelledError:  # the page is closed before it is open
            return
        except Exception as error:
            log.exception("preparing failed")
            self.said = f"the page cannot be used: {error}"
            self.tell_all()
            return
        self.ready, self.said = True, ""
        log.info("ready after %.0f s", time.perf_counter() - start)
        self.tell_all()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for session in self.sessions.end_the_gone():
                self._forget(session)

    def _forget(self, session: Session) -> None:
        for worker in (self.motions, self.pictures, self.jobs):
            worker.forget(session.token)
        self._busy.discard(session.token)

    def _spawn(self, coroutine) -> asyncio.Task:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # What it says ---------------------------------------------------------------------------------------

    def say_to_all(self, text: str) -> None:
        """Progress of what concerns everybody; from any thread."""
        self.said = text
        log.info(text)
        self._loop.call_soon_threadsafe(self.tell_all)

    def tell_all(self) -> None:
        for token in list(self._sockets):
            self._send(token, {"type": "status", "ready": self.ready, "said": self.said})

    def _send(self, token: str, message: dict) -> None:
        for channel in self._sockets.get(token, ()):
            self._spawn(channel.send_json(message))

    def _say_to(self, session: Session) -> Callable[[str], None]:
        message = lambda text: {"type": "progress", "said": text}
        return lambda text: self._loop.call_soon_threadsafe(self._send, session.token, message(text))

    def state(self, session: Session) -> dict:
        """What the page shows of a session."""
        motion = session.motion
        film = None if motion is None else {"name": session.motion_name, "seconds": motion.seconds}
        return {
            "head": session.avatar is not None,
            "personalised": session.is_personalised,
            "faces": session.faces,
            "note": session.note,
            "film": film,
        }

    # Pictures -------------------------------------------------------------------------------------------

    async def live(self, socket: WebSocket) -> None:
        """The connection of one tab."""
        await socket.accept()
        channel = Channel(socket)
        try:
            session = await self._greet(channel)
        except (WebSocketDisconnect, UserError, ValueError) as error:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await channel.send_json({"type": "full", "said": str(error)})
                await socket.close(1013)
            return
        session.sockets += 1
        self._sockets.setdefault(session.token, set()).add(channel)
        try:
            while not session.stop.is_set():
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                try:
                    self._heard(session, channel, message)
                except UserError as error:
                    await channel.send_json({"type": "error", "said": str(error)})
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            session.sockets -= 1
            session.touched = time.monotonic()
            self._sockets[session.token].discard(channel)
            if not self._sockets[session.token]:
                del self._sockets[session.token]

    async def _greet(self, channel: Channel) -> Session:
        hello = await channel.socket.receive_json()
        token = hello.get("session") if isinstance(hello, dict) else None
        session = self.sessions.find(token if isinstance(token, str) else None) or self.sessions.begin()
        await channel.send_json(
            {
                "type": "hello",
                "session": session.token,
                "ready": self.ready,
                "said": self.said,
                "limits": {
                    "photo": self.limits.photo_bytes,
                    "avatar": self.limits.avatar_bytes,
                    "motion": self.limits.motion_bytes,
                },
                "state": self.state(session),
            }
        )
        return session

    def _heard(self, session: Session, channel: Channel, message: dict) -> None:
        """Puts what a message asks for in the queue; of a session only the newest request waits."""
        content, webcam = message.get("text"), None
        if content is None:
            content, webcam = unpack(message["bytes"])
        try:
            asked = json.loads(content)
        except ValueError:
            raise UserError("message: it is not JSON") from None
        if not isinstance(asked, dict):
            raise UserError("message: expected an object of JSON")
        if asked.pop("start_live", False):
            self.motions.submit((session.token, "start"), session.start_live)
            return
        view = View.read(asked)
        if not self.ready or session.avatar is None:
            raise UserError("there is no head yet; give a photo")
        self._spawn(self._answer(session, channel, view, webcam))

    async def _answer(self, session: Session, channel: Channel, view: View, webcam: bytes | None) -> None:
        """Moves the head, draws it and sends the picture, unless newer ones overtake it."""
        heard, told = time.perf_counter(), {"number": view.number, "coarse": view.coarse}

        def move() -> Posed:
            start = time.perf_counter()
            if webcam is not None:
                told["face"] = session.see(read_webcam(webcam), self._live_landmarker)
            posed = session.pose(view)
            told["move_ms"] = since(start)
            return posed

        def show(posed: Posed) -> bytes:
            start = time.perf_counter()
            picture = jpeg(draw(posed, view), COARSE_QUALITY if view.coarse else QUALITY)
            return pack({**told, "draw_ms": since(start), "inside_ms": since(heard)}, picture)

        try:
            posed = await self._newest(self.motions, session, move)
            picture = await self._newest(self.pictures, session, functools.partial(show, posed))
            await channel.send_bytes(picture)
        except Superseded:
            return
        except UserError as error:
            await channel.send_json({"type": "error", "said": str(error), "number": view.number})
        except Exception:
            log.exception("a picture failed")
            said = "this picture could not be drawn"
            await channel.send_json({"type": "error", "said": said, "number": view.number})

    async def _newest(self, worker: Worker, session: Session, task: Callable[[], object]):
        """The result of a session's task.

        Raises:
          Superseded: A newer one of this session has taken its place, or the session has ended.
        """
        future = worker.submit(session.token, task)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.cancelled():
                raise Superseded from None
            raise

    # Jobs -----------------------------------------------------------------------------------------------

    def _session(self, request: Request) -> Session:
        session = self.sessions.find(request.headers.get("x-session"))
        if session is None:
            raise Refused(404, "this session has ended; reload the page")
        return session

    async def _do(self, session: Session, task: Callable[[], object], shown: dict[str, str] | None = None):
        """Runs a job of a session, one at a time, and says in one line what went wrong.

        Args:
          shown: Names of files on this machine, and those that the person knows them by.
        """
        if session.token in self._busy:
            raise Refused(409, "something else is being made; wait until it is done")
        self._busy.add(session.token)
        try:
            return await asyncio.wrap_future(self.jobs.submit(session.token, task))
        except UserError as error:
            said = str(error)
            for path, name in (shown or {}).items():
                said = said.replace(path, name)
            raise Refused(400, said) from error
        except (Stopped, asyncio.CancelledError):
            raise Refused(410, "this session has ended") from None
        except Exception as error:
            log.exception("a job failed")
            raise Refused(500, "this cannot be used, for a reason that the page does not know") from error
        finally:
            self._busy.discard(session.token)

    async def photo(self, request: Request) -> Response:
        session = self._session(request)
        path, name = await self._receive(request, session, "photo", PHOTO_SUFFIXES, self.limits.photo_bytes)
        await self._make(session, path, name, None)
        return JSONResponse(self.state(session))

    async def avatar(self, request: Request) -> Response:
        session, example = self._session(request), self._example
        if not self.ready:
            raise Refused(503, "the page is being prepared")
        path, name = await self._receive(
            request, session, "avatar", (AVATAR_SUFFIX,), self.limits.avatar_bytes
        )
        task = lambda: session.open_avatar(path, example.avatar)
        try:
            await self._do(session, task, {str(path): name})
        finally:
            path.unlink(missing_ok=True)
        return JSONResponse(self.state(session))

    async def person(self, request: Request) -> Response:
        session = self._session(request)
        asked = await read_object(request)
        if session.photo is None or type(asked.get("person")) is not int:
            raise Refused(400, "person: give a photo, then the number of a face in it")
        await self._make(session, session.photo, "the photo", asked["person"])
        return JSONResponse(self.state(session))

    async def _make(self, session: Session, path: Path, name: str, person: int | None) -> None:
        say = self._say_to(session)
        task = lambda: session.take_photo(path, self._jobs_landmarker, say, person)
        await self._do(session, task, {str(path): name})

    async def example(self, request: Request) -> Response:
        session, example = self._session(request), self._example
        if not self.ready:
            raise Refused(503, "the page is being prepared")
        session.note, session.faces, session.photo = example.note, [], None
        await self._do(session, lambda: session.take_avatar(example.avatar))
        return JSONResponse(self.state(session))

    async def personalise(self, request: Request) -> Response:
        session = self._session(request)
        steps, say = self.limits.personalise_steps, self._say_to(session)
        await self._do(session, lambda: session.personalise(steps, say))
        return JSONResponse(self.state(session))

    async def motion(self, request: Request) -> Response:
        session = self._session(request)
        path, name = await self._receive(
            request, session, "motion", MOTION_SUFFIXES, self.limits.motion_bytes
        )
        say, most = self._say_to(session), self.limits.frames
        await self._do(session, lambda: session.take_motion(path, name, most, say), {str(path): name})
        return JSONResponse(self.state(session))

    async def record(self, request: Request) -> Response:
        """Begins a recording of the webcam, or ends one and keeps it: {"keep": true}."""
        session = self._session(request)
        keep = (await read_object(request)).get("keep") is True
        await self._do(session, session.keep_recorded if keep else session.record)
        return JSONResponse(self.state(session))

    async def take(self, request: Request) -> Response:
        session = self._session(request)
        asked = await read_object(request)
        kind, view = asked.get("kind"), asked.get("view", {})
        if kind not in HOME or not isinstance(view, dict):
            raise Refused(400, f"kind: expected one of {', '.join(HOME)}")
        try:
            view = View.read(view)
        except UserError as error:
            raise Refused(400, str(error)) from error
        path = await self._do(session, lambda: session.take_home(kind, view, self._say_to(session)))
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    async def crop(self, request: Request) -> Response:
        session = self._session(request)
        if session.avatar is None:
            raise Refused(404, "there is no photo yet")
        return Response(jpeg(np.asarray(session.avatar.photo), QUALITY), media_type="image/jpeg")

    async def end(self, request: Request) -> Response:
        session = self._session(request)
        self._send(session.token, {"type": "ended"})
        self.sessions.end(session)
        self._forget(session)
        return JSONResponse({})

    async def _receive(
        self, request: Request, session: Session, what: str, suffixes: tuple[str, ...], most: int
    ) -> tuple[Path, str]:
        """A file that is sent, in the session's folder, and the name that the person knows it by."""
        if session.token in self._busy:
            raise Refused(409, "something else is being made; wait until it is done")
        name = Path(urllib.parse.unquote(request.headers.get("x-name", ""))).name[:100]
        suffix = Path(name).suffix.lower()
        if suffix not in suffixes:
            raise Refused(400, f"{what}: {name!r} is of no kind that can be read; give {' '.join(suffixes)}")
        too_large = Refused(413, f"{what}: {name!r} is larger than {most / 1e6:g} MB; give a smaller one")
        if int(request.headers.get("content-length", "0") or 0) > most:
            raise too_large
        size = 0
        with tempfile.NamedTemporaryFile(
            dir=session.folder, prefix=what, suffix=suffix, delete=False
        ) as file:
            path = Path(file.name)
            try:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > most:
                        raise too_large
                    file.write(chunk)
            except (Refused, ClientDisconnect):
                path.unlink(missing_ok=True)
                raise
        if not size:
            path.unlink(missing_ok=True)
            raise Refused(400, f"{what}: {name!r} is empty")
        return path, name

    # The application ------------------------------------------------------------------------------------

    def application(self, token: str = "") -> Guard:
        """What an ASGI server runs. token: see `Guard`."""
        posts = ("photo", "avatar", "person", "example", "personalise", "motion", "record", "take", "end")
        files = {"/": "index.html", **{f"/{name}": name for name in ("page.css", "page.js", "icon.svg")}}
        routes = [
            WebSocketRoute("/live", self.live),
            Route("/crop", self.crop),
            *(Route(path, _file_route(name)) for path, name in files.items()),
            *(Route(f"/{name}", getattr(self, name), methods=["POST"]) for name in posts),
        ]
        refused = lambda request, error: JSONResponse({"said": str(error)}, error.status)
        gone = lambda request, error: Response(status_code=499)
        handlers = {Refused: refused, ClientDisconnect: gone}
        return Guard(Starlette(routes=routes, lifespan=self.life, exception_handlers=handlers), token)


class Channel:
    """One open connection, to which one message is sent at a time."""

    def __init__(self, socket: WebSocket):
        self.socket, self._lock = socket, asyncio.Lock()

    async def send_json(self, message: dict) -> None:
        await self._send(self.socket.send_text, json.dumps(message))

    async def send_bytes(self, message: bytes) -> None:
        await self._send(self.socket.send_bytes, message)

    async def _send(self, send: Callable, message: str | bytes) -> None:
        async with self._lock:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it has just been closed
                await send(message)


def _file_route(name: str) -> Callable:
    async def answer(request: Request) -> Response:
        return Response((PAGE / name).read_bytes(), media_type=KINDS[Path(name).suffix])

    return answer


async def read_object(request: Request) -> dict:
    """The small JSON object that a request carries; nothing is {}."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > 10_000:
            raise Refused(413, "the request is too long")
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refused(400, "expected an object of JSON")
    return found


def since(start: float) -> int:
    """Milliseconds since a moment of perf_counter."""
    return round(1e3 * (time.perf_counter() - start))


def pack(header: dict, content: bytes) -> bytes:
    """A binary message: length, JSON, content."""
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + content


def unpack(message: bytes) -> tuple[bytes, bytes]:
    """JSON and content of a binary message.

    Raises:
      UserError: It is too short.
    """
    length = struct.unpack_from("<I", message)[0] if len(message) >= 4 else LARGEST_MESSAGE
    if 4 + length > len(message):
        raise UserError("message: it ends too early")
    return message[4 : 4 + length], message[4 + length :]


def jpeg(picture: np.ndarray, quality: int) -> bytes:
    """A picture (H, W, 3) uint8 as a file; without subsampled colours, which blur lips and irises."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def read_webcam(content: bytes) -> np.ndarray:
    """A webcam's JPEG as (H, W, 3) uint8.

    Raises:
      UserError: It is none, or too large.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > LARGEST_WEBCAM:
                raise UserError(f"webcam: {image.width}x{image.height} pixels are too many")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, UnidentifiedImageError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("webcam: the picture cannot be read") from error
