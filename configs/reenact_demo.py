"""Trains Psi at the size that ships: 256² portraits of streamed OpenHeads, on two cores.

The shipped weights come of several runs, one after another:
docs/results/reconstructor.md, "The demo weights".
"""

from ml_collections import ConfigDict

from . import portrait4d


def get_config() -> ConfigDict:
    config = portrait4d.get_config()
    config.name = "reenact_demo"
    config.batch = 8
    config.data.update({"genhead": 0, "openheads": 8})
    config.evaluate_people = 8
    config.motion = "flame_motion"
    config.perceptual = "structure"
    config.relief_alone = 2400.0
    config.sharp_backgrounds = 0.5
    config.fit_noise = 1.5
    config.terms.update(
        {
            "image": (1.0,),
            "upscaled": (0.5,),
            "raw": (0.5,),
            "foreground": (0.5,),
            "background": (0.3,),
            "features": (0.0,),
            "triplane": (0.0,),
            "depth": (4.0,),
            "opacity": (1.0,),
            "photo_depth": (2.0,),
            "photo_opacity": (0.5,),
            "identity": (0.0,),
            "adversarial": (0.0,),
            "density": (0.0,),
        }
    )
    config.model.update(
        {
            "dtype": "float32",
            "image_size": 128,
            "global_widths": (24, 32, 64, 96),
            "global_depths": (1, 1, 1, 1),
            "pyramid_features": 64,
            "pyramid_rates": (2, 4, 6),
            "detail_features": (32, 32, 32),
            "motion_size": 109,
            "motion_hidden": 128,
            "motion_grid": 4,
            "token_dim": 160,
            "token_heads": 4,
            "blocks_de": 2,
            "blocks_re": 2,
            "canonical_features": (32, 32, 24),
            "plane_token_dim": 128,
            "plane_heads": 2,
            "plane_reduction": 1,
            "plane_stride": 4,
            "plane_convs_before": (32,),
            "plane_convs_after": (48,),
            "plane_channels": 16,
            "plane_upsample": 2,
            "background_widths": (16, 32, 64, 96),
            "background_size": 64,
            "decoder_hidden": 32,
            "feature_channels": 16,
            "superresolution_size": 0,
            "superresolution_channels": (32,),
            "style_dim": 32,
            "source_lifting": True,
            "lifted_size": 256,
            "deformation": "expression",
            "refinement_features": (24, 24),
            "refinement_scale": 2,
            "photo_features": 8,
            "photo_widths": (16, 32, 64, 96),
        }
    )
    config.adam = (0.9, 0.99, 1e-8)
    config.clip_norm = 1.0
    config.step.update(
        {
            "stages": ((0, 64),),
            "crop": 32,
            "samples": (8, 8),
            "face_weight": 1.0,
            "feature_weight": 6.0,
            "average_half_life": 2000.0,
            "rematerialize": False,
            "views_at_once": 0,
        }
    )
    config.loop.update(
        {
            "steps": 100_000,
            "minutes": 66.0,
            "peak_rate": 2e-3,
            "final_share": 0.01,
            "warmup": 50,
            "log_every": 10,
            "grid_every": 100,
            "evaluate_every": 1000,
            "best": "self/psnr",
            "save_minutes": 4.0,
        }
    )
    return config
