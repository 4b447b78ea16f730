"""MediaPipe's networks as functions of NumPy arrays, run by LiteRT on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from p4d_jax import assets

Network = Callable[[np.ndarray], tuple[np.ndarray, ...]]


def load_network(name: str, threads: int = 2) -> Network:
    """An embedded network: (H, W, 3) float32 in [0, 1] -> its outputs. Not to be shared between threads.

    Args:
      name: The name of the network's file without its ending.
      threads: CPU threads that it uses.
    """
    from ai_edge_litert.interpreter import Interpreter  # heavy: only when a photo is captured

    interpreter = Interpreter(model_path=str(assets.mediapipe_model(name)), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    sinks = [detail["index"] for detail in interpreter.get_output_details()]

    def run(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        interpreter.set_tensor(source, np.ascontiguousarray(pixels[None]))
        interpreter.invoke()
        return tuple(interpreter.get_tensor(sink) for sink in sinks)

    return run
