"""A page that needs nothing beside it, to be looked at, kept or sent; light or dark, as the reader likes."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --quiet: light-dark(#5c5c5c, #a5a5a5);
  --self: light-dark(#0b62c4, #6fb1ff); --cross: light-dark(#b3470b, #ff9f5f) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; background: light-dark(#fff, #16181b); color: light-dark(#1a1a1a, #e6e6e6) }
video, img { max-width: 100%; border-radius: 4px } table { border-collapse: collapse }
.wide { overflow-x: auto } .wide table { overflow-wrap: normal }
caption { text-align: left; font-weight: 600; padding: .4rem 0 }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line) }
figure { margin: 1rem 0 } figcaption { color: var(--quiet) }
"""


def write_html(path: Path, title: str, sections: Iterable[str], style: str = "") -> None:
    """Writes a page of sections, which are HTML; the title is text.

    style: CSS beside the usual one.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}{style}</style><title>{html.escape(title)}</title>"
    )
    start = f'<!doctype html>\n<html lang="en">{head}'
    path.write_text("\n".join([start, *sections, "</html>", ""]))


def to_jpeg(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 as a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return file.getvalue()


def figure(jpeg: bytes, title: str) -> str:
    """A picture in the page itself."""
    data = base64.b64encode(jpeg).decode()
    text = html.escape(title)
    image = f'<img alt="{text}" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def items(lines: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def table(values: dict) -> str:
    """Names and values."""
    rows = (
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{''.join(rows)}</table>"
