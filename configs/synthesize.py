"""4D data from a GenHead: --config.weights=DIR/weights.npz --config.identities=10000."""

from ml_collections import ConfigDict

from configs.base import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "synthesize"
    config.weights = "genhead_demo"  # an embedded name, a file, or a folder that the job convert made
    config.identities = 32  # people
    config.shards = 4  # files of the dataset; hosts share them
    config.motion = ""  # motion .npz of a real clip to draw from; '' draws from the motion model
    # The film of one identity
    config.film_identity = 2  # which
    config.film_motion = "motion_talk"
    config.film_frames = 96  # 0 leaves the film out
    config.film_fps = 25.0
    # What is drawn for each person: see SynthesisSettings
    config.settings = ConfigDict(
        {
            "motions": 4,  # 1 for static samples
            "views": 2,  # of each motion
            "resolution": 0,  # rays a side; 0 is what the weights were trained with
            "samples": (24, 24),
            "truncation_psi": 0.95,
            "truncation_cutoff": 14,
            "points": 1024,
            "data_cameras": 0.5,
            "views_at_once": 1,
        }
    )
    return config
