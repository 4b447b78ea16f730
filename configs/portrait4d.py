"""The paper's training of Psi at 512², batch 32, on a GenHead's data: every field is at the paper's value.

It needs a head model and networks that others trained: see docs/convert.md for each folder's command.
"""

from ml_collections import ConfigDict

from configs.base import common

FOREVER = float("inf")


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "train_reenact"
    config.name = "portrait4d"  # of this file: the exported weights tell which command made them
    config.batch = 32  # pairs a step, over all devices
    # Pairs of a batch by source. Drawn on the devices: 'genhead', 'openheads', 'films' (OpenHeads before one
    # camera each). Read from disk: 'stored', 'real_films' (docs/reconstructor.md, "Data of a training")
    config.data = ConfigDict({"genhead": 32, "openheads": 0, "films": 0, "stored": 0, "real_films": 0})
    config.stored = ""  # folder in which the job synthesize has written p4d_heads
    config.real_films = ""  # folder of films
    config.mirror = True  # real films show flipped as well
    config.readers = 4  # threads that read from disk; each reads a batch, and so many are kept ready
    config.static_share = 0.5  # of the pairs: one motion from two sides, cross-attention times 0
    config.start = ""  # weights to start from: a path, or an embedded name; empty: random
    config.static = ""  # v2: weights of the frozen static model, which turns frames to other sides
    config.multiview_every = 4  # steps between comparisons with it from a random side
    config.multiview_weight = 1.0  # of the comparison
    config.multiview_motion = 0.9  # probability that a motion is seen in one of its views
    config.photos = 1  # of a person that make one source; more than 1 with OpenHeads and films alone; ours
    config.supersample = 1  # samples a pixel and axis of OpenHeads' pictures
    config.yaw_balance = 0.0  # probability that a view's yaw is drawn evenly from its whole range; ours
    config.closed_eyes = 0.0  # probability that both eyes are shut, beside those that a motion shuts; ours
    config.sharp_backgrounds = 0.0  # probability of OpenHeads before a background in focus; ours
    config.fit_noise = 0.0  # times what landmarks leave open of a shape: by which given shapes are off; ours
    config.evaluate_people = 0  # of another draw, measured every loop.evaluate_every steps; 0: none
    # Networks that others trained: folders of the job convert
    config.genhead = "genhead"  # the GenHead that makes the data: a folder, a file or an embedded name
    config.genhead_resolution = 64  # its rays a side
    config.genhead_samples = (48, 48)  # and its coarse and fine samples a ray
    config.motion = "pdfgc"  # motion vectors: 'pdfgc' sees them in pictures, 'flame_motion' takes parameters
    config.pdfgc = "pdfgc"
    config.perceptual = "lpips"  # of L_re: 'lpips', or its substitute 'structure', which needs no weights
    config.lpips = "lpips"
    config.arcface = "arcface"
    config.discriminator = "discriminator"  # of that GenHead
    # The loss table: weight, first image, last image
    # Images of which a model with photo features learns the relief alone: what it says is a density
    config.relief_alone = 0.0
    config.terms = ConfigDict(
        {
            "image": (1.0,),
            "upscaled": (0.0,),
            "raw": (1.0,),
            "foreground": (1.0,),
            "background": (1.0,),
            "features": (1.0, 0.0, 400_000.0),
            "triplane": (0.1, 0.0, 400_000.0),
            "depth": (1.0, 0.0, 400_000.0),
            "opacity": (0.3,),
            "photo_depth": (0.0,),
            "photo_opacity": (0.0,),
            "identity": (1.0, 400_000.0, FOREVER),
            "adversarial": (0.01, 1_000_000.0, FOREVER),
            "density": (0.25,),
        }
    )
    # Sizes of the network: see ReconstructorConfig
    config.model = ConfigDict(
        {
            "image_size": 512,
            "motion_size": 548,
            "dtype": "bfloat16",
        }
    )
    config.adam = (0.9, 0.999, 1e-5)  # beta1, beta2, epsilon
    config.clip_norm = 0.0  # largest norm of the gradient; 0: any
    # The steps: see StepConfig
    config.step = ConfigDict(
        {
            "stages": (
                (0, 64),
                (1_200_000, 80),
                (1_500_000, 96),
                (1_800_000, 112),
                (2_000_000, 128),
            ),
            "crop": 0,
            "samples": (48, 48),
            "face_weight": 0.0,
            "feature_weight": 0.0,
            "density_every": 16,
            "density_points": 1000,
            "density_distance": 0.004,
            "discriminator_rate": 1.0,
            "penalty_every": 16,
            "gamma_image": 1.0,
            "gamma_correspondence": 10.0,
            "gamma_segmentation": 1.0,
            "motion_rate": 1.0,
            "trained": (),
            "average_half_life": 10_000.0,
            "rematerialize": True,
            "views_at_once": 1,
        }
    )
    # The loop: see LoopConfig
    config.loop = ConfigDict(
        {
            "steps": 468_750,
            "minutes": 0.0,
            "peak_rate": 1e-4,
            "final_share": 1.0,
            "warmup": 0,
            "log_every": 16,
            "grid_every": 6250,
            "save_minutes": 30.0,
            "keep": 2,
            "evaluate_every": 6250,
            "best": "",
            "best_is": "highest",
            "profile": (0, 0),
        }
    )
    return config
