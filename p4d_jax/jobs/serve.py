"""The job `serve`: the page on which a photo's head is turned, moved and taken home.

It runs until Ctrl-C. Nothing is written to the workdir: what people bring lies in temporary folders, which go
with their sessions.
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from ml_collections import ConfigDict

from p4d_jax.avatar.model import AvatarModel
from p4d_jax.errors import UserError
from p4d_jax.imaging.watermark import MARKS
from p4d_jax.jobs._fields import check_ranges, named_in
from p4d_jax.jobs.settings import ServeSettings
from p4d_jax.settings import from_config

LEAST_TOKEN = 16


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job; see the file's docstring."""
    config = from_config(ServeSettings, config)
    try:
        import uvicorn

        from p4d_jax.serve.app import LARGEST_MESSAGE, Limits, Server
        from p4d_jax.serve.guard import is_loopback
    except ModuleNotFoundError as error:
        raise UserError(f'the page needs {error.name!r}: pip install "p4d_jax[serve]"') from None
    check_numbers(config)
    marks = tuple(named_in(MARKS, config.watermark, "watermark", "mark"))
    if not is_loopback(config.host) and len(config.token) < LEAST_TOKEN:
        raise UserError(
            f"config.host={config.host!r} lets other machines in, which takes a config.token of {LEAST_TOKEN}"
            f" characters or more, such as {secrets.token_urlsafe(18)!r}"
        )
    limits = Limits(
        photo_bytes=round(config.photo_megabytes * 1e6),
        motion_bytes=round(config.motion_megabytes * 1e6),
        frames=config.max_frames,
        sessions=config.sessions,
        away_seconds=config.away_seconds,
        personalise_steps=config.personalise_steps,
    )
    logging.getLogger("p4d_jax.serve").setLevel(logging.INFO)
    logging.getLogger("p4d_jax.serve").addHandler(logging.StreamHandler())
    server = Server(AvatarModel.load(config.weights, config.head), limits, marks)
    address = f"http://{config.host}:{config.port}/"
    print(f"the page is at {address}" + (f"?token={config.token}" if config.token else ""), flush=True)
    settings = uvicorn.Config(
        server.application(config.token),
        host=config.host,
        port=config.port,
        log_level="warning",
        access_log=False,
        ws_max_size=LARGEST_MESSAGE,
        timeout_graceful_shutdown=2,
        server_header=False,
        proxy_headers=False,
    )
    try:
        uvicorn.Server(settings).run()
    except SystemExit as error:  # uvicorn's way to say that it cannot listen
        raise UserError(f"config.port={config.port}: {address} is taken or may not be used") from error


def check_numbers(config: ServeSettings) -> None:
    """Every number of the config that has a range."""
    ranges = {
        "port": (1, 65535),
        "photo_megabytes": (0.001, 1000),
        "motion_megabytes": (0.001, 10_000),
        "max_frames": (1, 100_000),
        "sessions": (1, 1000),
        "away_seconds": (0, 86_400),
        "personalise_steps": (1, 10_000),
    }
    check_ranges(config, ranges)
