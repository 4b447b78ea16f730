"""GenHead at 128² on streamed OpenHeads: the same code as the paper's size, for one GPU.

`genhead_demo_cpu` is for a machine without one.
"""

from ml_collections import ConfigDict

from . import genhead_ffhq512


def get_config() -> ConfigDict:
    config = genhead_ffhq512.get_config()
    config.name = "genhead_demo"
    config.batch = 32
    config.fid_images = 2048
    config.supersample = 2  # at 128² jagged edges would be all that D looks at
    config.model.update(
        {
            "latent_size": 128,
            "style_size": 128,
            "shape_size": 300,
            "plane_size": 128,
            "plane_channels": 16,
            "channel_base": 4096,
            "channel_max": 128,
            "background_size": 32,
            "background_mapping_layers": 4,
            "background_channel_base": 1024,
            "background_channel_max": 64,
            "decoder_hidden": 32,
            "feature_channels": 16,
            "superresolution_size": 64,
            "superresolution_channels": (16,),
        }
    )
    config.discriminator.update(
        {"image_size": 128, "channel_base": 4096, "channel_max": 128, "mapping_layers": 2, "group_size": 4}
    )
    config.terms.update(
        {
            "surface": (0.5, 0.0, 40_000.0, True),  # the mesh tells at the start where the head is
            "reconstruction": (1.0,),  # codes of real pictures teach sooner than D alone
            "reconstruction_raw": (1.0,),
            "reconstruction_mask": (1.0,),
            "skin": (1.0,),  # eyes and mouths come thousands of pictures earlier
            "kl": (2e-3,),
        }
    )
    config.step.update(
        {
            "samples": (16, 16),
            "gamma_correspondence": 1.0,
            "reconstruction_every": 2,
            "reconstruction_images": 90_000.0,
            "swap": 1.0,  # OpenHeads' pictures have no bias that a camera would tell
            "swap_images": 0.0,
            "blur": 0.0,  # D starts with pictures that are near already
            "stages": ((0, 64),),
            "generator_rate": 0.002,
            "discriminator_rate": 0.0015,
            "reuse_fakes": True,
            "rematerialize": False,
            "views_at_once": 0,
        }
    )
    config.loop.update(
        {
            "steps": 3_700,  # 12 minutes of an H200
            "minutes": 0.0,
            "log_every": 20,
            "grid_every": 500,
            "evaluate_every": 2000,
            "save_minutes": 4.0,
        }
    )
    return config
