"""Portrait4D in JAX: one-shot 4D head avatars (CVPR 2024, ECCV 2024)."""

__version__ = "0.1.0"
