"""4D training data from a GenHead: --config.weights=DIR/weights.npz."""

from ml_collections import ConfigDict

from configs.base import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "synthesize"
    # Who is shown, and how they move
    config.weights = "genhead_demo"  # of a GenHead: an embedded name, a file, a folder that `convert` made
    config.portraits = ""  # motion .npz files, with commas, whose shapes and cameras are the data's; '' draws
    config.motions = ""  # motion .npz files of clips, with commas, or an embedded name; '': the motion model
    # What is written. A sample is one identity; 0 shards leave a kind out. A shard is kept in no memory.
    config.dynamic = ConfigDict(
        {
            "motions": 4,  # of an identity
            "views": 2,  # of each motion
            "shards": 4,  # files, which hosts share among them
            "samples": 4,  # in each
        }
    )
    config.static = ConfigDict({"motions": 1, "views": 8, "shards": 2, "samples": 4})
    # What is drawn and how it is shown: see SynthesisSettings
    config.settings = ConfigDict(
        {
            "resolution": 0,  # rays a side; 0: as the weights were trained
            "samples": (48, 48),  # coarse and fine samples a ray
            "points": 4000,  # a view, with their tri-plane features
            "truncation_psi": 0.95,  # 1 is the most varied, 0 the mean
            "truncation_cutoff": 14,  # styles that it changes
            "look_at_share": 0.5,  # of cameras that look from all around the front; the others are the data's
            "neck_share": 0.0,  # of a motion's neck rotation; 0: the camera carries the head's pose
            "views_at_once": 1,  # side by side; 8 or more fill a GPU
        }
    )
    # To look at
    config.sheet_rows = 4  # stored samples of each kind in sheet.png
    config.film_frames = 72  # of film.mp4; 0 leaves it out
    config.film_motion = "motion_talk"  # motion .npz, or an embedded name
    config.film_seed = 0  # of the identity
    config.film_fps = 24.0
    config.panel = 256  # height and width of one picture of the film, in pixels
    return config
