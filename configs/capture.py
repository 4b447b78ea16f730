"""Photo, film or folder to parameters: --config.source=me.jpg."""

from ml_collections import ConfigDict

from configs.base import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "capture"
    config.source = "astronaut"  # a photo, a film, a folder of frames of one film, or the example 'astronaut'
    config.max_frames = 0  # of a film; 0: all
    config.smoothing = 0.6  # of a film: frames of Gaussian over time that calm jitter; 0 turns it off
    config.write_crops = True  # the 512 x 512 pictures beside the parameters
    config.write_alphas = False  # of a film: its masks too, about a second a frame, for data to train on
    return config
