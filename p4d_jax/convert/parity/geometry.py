"""Cases of geometry, rendering and the head model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from p4d_jax.convert.parity.fixtures import Case

# Case name -> our outputs by name, in the reference's layouts.
CASES: dict[str, Callable[[Case], dict[str, np.ndarray]]] = {}
