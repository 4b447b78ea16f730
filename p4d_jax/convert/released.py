"""The files that the public implementation points to, and how they are fetched when the user asks for one.

They lie in its authors' repository on the Hugging Face hub, under the licences of their makers, which whoever
downloads them accepts. Names and folders are those of the public README. No sha256 of them was published or
could be computed when this was written: `sha256` is None, and the job prints what it finds.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from p4d_jax.errors import UserError, nearest

_REPOSITORY = "bEijuuu/Portrait4D"


@dataclass(frozen=True)
class Released:
    """A file on the hub.

    Attributes:
      path: in the repository.
      repository: owner/name.
      sha256: of the file, where it is known.
    """

    path: str
    repository: str = _REPOSITORY
    sha256: str | None = None


RELEASED = {
    "genhead-ffhq512": Released("genhead-ffhq512.pkl"),
    "portrait4d-genhead512": Released("portrait4d-genhead512.pkl"),
    "portrait4d-static-genhead512": Released("portrait4d-static-genhead512.pkl"),
    "portrait4d-v2-vfhq512": Released("portrait4d-v2-vfhq512.pkl"),
    "motion_model": Released("models/pdfgc/weights/motion_model.pth"),
    "arcface": Released("models/arcface/ms1mv3_arcface_r18_fp16/backbone.pth"),
    "lpips-vgg": Released("models/lpips/weights/v0.1/vgg.pth"),
    "lpips-alex": Released("models/lpips/weights/v0.1/alex.pth"),
    "flame": Released("models/FLAME/geometry/generic_model.pkl"),
    "flame-masks": Released("models/FLAME/mask/FLAME_masks.pkl"),
}

# Files that are used together: a reconstructor and the encoder that makes its motion vectors.
SETS = {
    "portrait4d": ("portrait4d-genhead512", "motion_model"),
    "portrait4d_static": ("portrait4d-static-genhead512", "motion_model"),
    "portrait4d_v2": ("portrait4d-v2-vfhq512", "motion_model"),
}


def names_of(name: str) -> tuple[str, ...]:
    """The keys of `RELEASED` that a name stands for: a set's files, or the name itself.

    Raises:
      UserError: it is neither.
    """
    if name in SETS:
        return SETS[name]
    if name not in RELEASED:
        known = (*SETS, *RELEASED)
        raise UserError(f"{name!r} is not one of {', '.join(known)}{nearest(name, known)}")
    return (name,)


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a file: its name, its size in bytes and its sha256 in hexadecimal."""

    name: str
    size: int
    sha256: str


def fingerprint(path: str | Path) -> Fingerprint:
    """Reads a whole file for its `Fingerprint`.

    Raises:
      UserError: it cannot be read.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Fingerprint(path.name, path.stat().st_size, digest)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def check_sha256(found: Fingerprint, expected: str, of: str) -> None:
    """Compares a file with a sha256 that `of` gives.

    Raises:
      UserError: `expected` is no sha256, or another file's.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise UserError(f"{of}: {expected!r} is not a sha256 of 64 hexadecimal digits")
    if found.sha256 != expected.lower():
        raise UserError(f"{found.name}: its sha256 is {found.sha256}, but {of} says {expected.lower()}")


def check_name(found: Fingerprint) -> None:
    """PyTorch's own files, as vgg16-397923af.pth, carry the start of their sha256 in their name.

    Raises:
      UserError: the file has another.
    """
    match = re.search(r"-([0-9a-f]{8})\.pth?$", found.name)
    if match and not found.sha256.startswith(match[1]):
        raise UserError(
            f"{found.name}: its sha256 starts with {found.sha256[:8]}, but its name says {match[1]}:"
            " damaged, or another file under this name"
        )


def download(name: str, folder: Path, endpoint: str = "") -> Path:
    """Fetches a released file into a folder; what is there already is not fetched again.

    Args:
      name: a key of `RELEASED`.
      endpoint: of the hub; '' for the usual one, or what HF_ENDPOINT says.

    Returns:
      The file, of the size and (where the hub gives it) the sha256 that the hub promises.

    Raises:
      UserError: `huggingface_hub` is missing, or the hub does not deliver.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"fetching {name!r} needs huggingface_hub: pip install 'p4d_jax[convert]'; or download the file"
            " yourself and convert that"
        ) from None
    released = RELEASED[name]
    # The files are public: no token of the user is sent.
    hub = {"token": False, "endpoint": endpoint or None}
    try:
        url = huggingface_hub.hf_hub_url(released.repository, released.path, endpoint=hub["endpoint"])
        promised = huggingface_hub.get_hf_file_metadata(url, **hub)
        path = Path(
            huggingface_hub.hf_hub_download(released.repository, released.path, local_dir=folder, **hub)
        )
    except Exception as error:  # of the hub, the network or the disk; none of them is ours
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{released.repository}/{released.path} cannot be fetched: {reason[:300]}") from None
    found = fingerprint(path)
    if promised.size is not None and found.size != promised.size:
        raise UserError(
            f"{path}: {found.size} bytes, but the hub says {promised.size}; delete it and try again"
        )
    if re.fullmatch(r"[0-9a-f]{64}", promised.etag or ""):
        check_sha256(found, promised.etag, "the hub")
    if released.sha256:
        check_sha256(found, released.sha256, "this package")
    return path
