"""A GenHead and a discriminator as small as they can be, on the embedded head, for tests of training."""

from __future__ import annotations

from pathlib import Path

from p4d_jax.main import load_config

ROOT = Path(__file__).parent.parent
STEPS = {
    "samples": (4, 4),
    "penalty_every": 2,
    "density_every": 2,
    "density_points": 16,
    "reconstruction_every": 1,
    "reconstruction_images": 0.0,
    "swap": 0.5,
    "swap_images": 64.0,
    "style_mixing": 0.5,
    "blur": 0.0,
    "blur_images": 64.0,
    "stages": ((0, 8),),
    "augment_target": 0.0,
    "augment_images": 100.0,
    "reuse_fakes": False,
    "rematerialize": False,
    "views_at_once": 0,
}
TERMS = {
    "surface": (0.5, 0.0, 200.0, True),
    "reconstruction": (0.0,),
    "reconstruction_raw": (0.0,),
    "reconstruction_mask": (0.0,),
    "skin": (0.0,),
    "kl": (0.0,),
}


def tiny_config(batch: int = 8):
    """The demo's config with the smallest networks: 16² pictures of 8² rays."""
    config = load_config(ROOT / "configs" / "genhead_demo.py")
    config.batch = batch
    config.supersample = 1
    config.model.update(
        latent_size=6, style_size=6, plane_size=8, plane_channels=4, channel_base=64, channel_max=8,
        background_size=4, background_mapping_layers=1, background_channel_base=16, background_channel_max=4,
        decoder_hidden=8, feature_channels=4, superresolution_size=8, superresolution_channels=(4,),
    )  # fmt: skip
    config.discriminator.update(image_size=16, channel_base=64, channel_max=8, mapping_layers=1, group_size=4)
    config.terms.update(TERMS)
    config.step.update(STEPS)
    config.loop.update(
        steps=20, minutes=0.0, log_every=1, grid_every=1000, save_minutes=0.0, warmup=0, keep=2
    )
    return config


def get_config():
    """So that this file is a config of its own."""
    return tiny_config()
