"""A reconstructor as small as it can be, on OpenHeads and the embedded head, for tests of its training."""

from __future__ import annotations

from pathlib import Path

from p4d_jax.main import load_config

ROOT = Path(__file__).parent.parent


def tiny_config(batch: int = 4):
    """The demo's config with the smallest networks: 32² pictures of 16² rays, rendered as a whole."""
    config = load_config(ROOT / "configs" / "reenact_demo.py")
    config.batch = batch
    config.data.openheads = batch
    config.evaluate_people = 0
    config.relief_alone = 0.0
    config.fit_noise = 0.0
    config.sharp_backgrounds = 0.0
    config.model.update(
        image_size=32, global_widths=(4, 4, 4, 4), pyramid_features=4, pyramid_rates=(1, 2, 3),
        detail_features=(4, 4), motion_hidden=8, motion_grid=2, token_dim=8, token_heads=2, blocks_de=1,
        blocks_re=1, canonical_features=(4, 4, 4), plane_token_dim=8, plane_convs_before=(4,),
        plane_convs_after=(4,), plane_channels=4, plane_stride=2, plane_upsample=1,
        background_widths=(4, 4, 4, 4), background_size=16, decoder_hidden=8, feature_channels=4,
        superresolution_channels=(4,), style_dim=4, source_lifting=False, lifted_size=32, deformation="neck",
        refinement_features=(), refinement_scale=1, photo_features=0,
    )  # fmt: skip
    config.terms.update(upscaled=(0.0,), density=(0.25,), photo_depth=(0.0,), photo_opacity=(0.0,))
    config.step.update(
        stages=((0, 16),), crop=0, samples=(4, 4), density_every=2, density_points=16, average_half_life=40.0
    )
    config.loop.update(
        steps=20, minutes=0.0, log_every=1, grid_every=1000, save_minutes=0.0, warmup=0, keep=2, best=""
    )
    return config


def get_config():
    """So that this file is a config of its own."""
    return tiny_config()
