"""What makes a training run what it is: compared between its hosts, and when it goes on."""

from __future__ import annotations

import hashlib
from typing import Any

from ml_collections import ConfigDict

import p4d_jax
from p4d_jax import assets


def run_record(config: ConfigDict) -> dict[str, Any]:
    """The config, the package's version and the digest of the head model's file."""
    head = assets.find(config.head, "head model", assets.HEADS)
    digest = hashlib.sha256(head.read_bytes()).hexdigest()
    return {**config.to_dict(), "package": p4d_jax.__version__, "head_file": digest}
