"""Public checkpoints and head models to ours, without running their code."""
