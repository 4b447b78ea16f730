"""One file a job: what python -m p4d_jax.main --config runs."""
