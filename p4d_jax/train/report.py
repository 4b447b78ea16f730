"""What every run says of itself: in the weights it leaves, and in its pictures."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from p4d_jax.train.processes import is_primary
from p4d_jax.train.state import TrainState


def about_run(state: TrainState, command: str, batch: int, mesh: Mesh, **more) -> dict:
    """The story of exported weights (`train.weights`): command, steps, images, hours, machine, and `more`."""
    return {
        "command": command,
        "steps": int(state.step),
        "images": int(state.step) * batch,
        "hours": round(float(state.seconds) / 3600, 3),
        "machine": f"{jax.devices()[0].device_kind}, {platform.machine()}, {mesh.size} devices",
        **more,
    }


def announce(line: str) -> None:
    """Prints a line, once for all processes."""
    if is_primary():
        print(line)


def announce_networks(mesh: Mesh, **networks: dict) -> None:
    """Prints how many parameters the networks of a run have, and on how many devices it runs."""
    counts = {name: sum(x.size for x in jax.tree.leaves(params)) for name, params in networks.items()}
    sizes = ", ".join(f"{name} {count / 1e6:.2f} M parameters" for name, count in counts.items())
    announce(f"{sizes}; {mesh.size} devices")


def picture_grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of pictures (S, S, 1 or 3) in [-1, 1] as one picture (H, W, 3) uint8.

    Pictures of fewer pixels than the first are enlarged to its size, pixel by pixel.
    """
    size = rows[0][0].shape[0]

    def show(image) -> np.ndarray:
        image = jnp.asarray(image)
        if image.shape[0] != size:
            image = jax.image.resize(image, (size, size, image.shape[-1]), "nearest")
        image = jnp.broadcast_to(image, (size, size, 3))
        return np.asarray(jnp.round(jnp.clip(image * 127.5 + 127.5, 0, 255)), np.uint8)

    return np.concatenate([np.concatenate([show(image) for image in row], axis=1) for row in rows])
