"""Trains the weights that the package ships: 256² portraits of streamed OpenHeads, 66 minutes, two cores."""

from ml_collections import ConfigDict

from configs.base import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "train_reenact"
    config.name = "reenact_demo"  # of this file: the exported weights tell which command made them
    config.cpu_devices = 0  # devices that a CPU is cut into; 0 leaves the machine's devices as they are
    config.clips = 4  # people a device and step
    config.frames = 2  # frames of a person: each is a source once and a target once
    config.clip_norm = 1.0  # largest norm of the gradient
    # Sizes of the network: see ReconstructorConfig
    config.model = ConfigDict(
        {
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
        }
    )
    # The step: see StepConfig
    config.step = ConfigDict({"resolution": 64, "crop": 32, "samples": (8, 8), "average_half_life": 2000.0})
    # The loop: see LoopConfig
    config.loop = ConfigDict(
        {
            "steps": 100_000,
            "minutes": 66.0,
            "peak_rate": 2e-3,
            "warmup": 50,
            "log_every": 10,
            "grid_every": 100,
            "save_minutes": 4.0,
        }
    )
    return config
