"""Who may speak to the page: whoever sits at this machine or has its token, and no other site's script.

A page that listens on 127.0.0.1 can still be reached by a foreign site in the same browser: its name may be
made to point here (DNS rebinding), or its scripts may open a WebSocket, which browsers let every site do. So
the Host that is asked for has to be this machine's, and an Origin has to be the page itself.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

COOKIE = "p4d_page"
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether a name or address, without port, is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets through what may pass, and adds headers that keep other sites out."""

    def __init__(self, app: Callable, token: str = ""):
        """Wraps an application.

        Args:
          app: The application.
          token: What everybody has to bring, once in the address and then as a cookie; '': the page listens
            to this machine alone, and nobody needs one.
        """
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self.refusal(headers, scope):
            await _refuse(scope, send, refusal)
        elif self._token and scope["type"] == "http" and _query_token(scope):
            cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Lax"
            await _answer(send, 303, b"", {"location": "/", "set-cookie": cookie})
        else:
            await self._app(scope, receive, _with_headers(send))

    def refusal(self, headers: dict[str, str], scope: Scope) -> str:
        """Why a request may not pass, or empty."""
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if not self._token and not is_loopback(name):
            return f"host {name[:80]!r}: this page answers to 127.0.0.1 and localhost alone"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return "another site's script may not use this page"
        if self._token and not self._has_token(headers, scope):
            return "this page asks for its token; open the address that it printed when it was started"
        return ""

    def _has_token(self, headers: dict[str, str], scope: Scope) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        found = [_query_token(scope), "" if cookie is None else cookie.value]
        return any(secrets.compare_digest(one.encode(), self._token.encode()) for one in found)


def _query_token(scope: Scope) -> str:
    return parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        await send(message)

    return sending


async def _refuse(scope: Scope, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": why[:120]})
    else:
        await _answer(send, 403, why.encode(), {"content-type": "text/plain; charset=utf-8"})


async def _answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in (HEADERS | headers).items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
