"""The paper's training of GenHead at 512², batch 32, all at the paper's value but the data: --config.data."""

from ml_collections import ConfigDict

from configs.base import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "train_genhead"
    config.name = "genhead_ffhq512"  # of this file: the exported weights tell which command made them
    config.batch = 32  # pictures a step, over all devices
    config.data = "openheads"  # drawn on the device, or a folder of photos (docs/genhead.md)
    config.mirror = True  # of photos: each also flipped
    config.readers = 4  # of photos: threads a process; so many batches are read ahead
    config.supersample = 1  # samples a pixel and axis of OpenHeads' pictures
    config.precision = "float32"  # of the networks' activations, or bfloat16
    config.inception = ""  # Inception of `convert`, for FID every loop.evaluate_every steps; "" measures none
    config.fid_images = 50_000  # generated, and as many of the data
    # Sizes of the networks: see GenHeadConfig and DiscriminatorConfig
    config.model = ConfigDict(
        {
            "latent_size": 512,
            "style_size": 512,
            "shape_size": 300,
            "plane_size": 256,
            "plane_channels": 32,
            "mapping_layers": 2,
            "channel_base": 32768,
            "channel_max": 512,
            "background_size": 64,
            "background_mapping_layers": 8,
            "background_channel_base": 16384,
            "background_channel_max": 512,
            "background_clamp": 256.0,
            "decoder_hidden": 64,
            "feature_channels": 32,
            "superresolution_size": 128,
            "superresolution_channels": (256, 128),
            "superresolution_clamp": 256.0,
        }
    )
    config.discriminator = ConfigDict(
        {
            "image_size": 512,
            "channel_base": 32768,
            "channel_max": 512,
            "mapping_layers": 8,
            "group_size": 2,
            "clamp": 256.0,
        }
    )
    # The steps: see GenHeadStepConfig
    config.step = ConfigDict(
        {
            "samples": (48, 48),
            "generator_rate": 0.0025,
            "discriminator_rate": 0.002,
            "penalty_every": 16,
            "density_every": 4,
            "gamma_image": 1.0,
            "gamma_correspondence": 10.0,
            "gamma_segmentation": 1.0,
            "density_weight": 0.25,
            "part_head_weight": 10.0,
            "part_solid_weight": 100.0,
            "surface_weight": 0.0,
            "surface_images": 1.0,
            "reconstruction_weight": 0.0,
            "reconstruction_every": 1,
            "reconstruction_images": 0.0,
            "skin_weight": 0.0,
            "kl_weight": 1e-4,
            "swap": 0.5,
            "swap_images": 1_000_000.0,
            "style_mixing": 0.0,
            "blur": 10.0,
            "blur_images": 200_000.0,
            "stages": ((0, 64),),
            "average_half_life": 10_000.0,
            "average_ramp": 0.05,
            "reuse_fakes": False,
            "augment_target": 0.0,
            "augment_images": 500_000.0,
            "rematerialize": True,
            "views_at_once": 1,
        }
    )
    # The loop: see LoopConfig
    config.loop = ConfigDict(
        {
            "steps": 781_250,
            "minutes": 0.0,
            "peak_rate": 1.0,
            "final_share": 1.0,
            "warmup": 0,
            "log_every": 16,
            "grid_every": 6250,
            "save_minutes": 30.0,
            "keep": 2,
            "evaluate_every": 6250,
            "profile": (0, 0),
        }
    )
    return config
