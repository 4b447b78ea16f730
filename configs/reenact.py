"""Brings a photo to life: --config.source=me.jpg --config.driving=clip.mp4."""

from ml_collections import ConfigDict

from configs.base import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "reenact"
    # What goes in
    config.source = (
        "astronaut"  # a photo: a path, or the example 'astronaut'; several of one person: a.jpg,b.jpg
    )
    config.driving = "motion_talk"  # film, photo, folder of photos, motion .npz, or an embedded motion's name
    config.max_frames = 240  # of the driving; the rest is left out
    config.fps = 0.0  # of the film; 0: the driving's own, 25 for a folder
    config.reference_frame = 0  # of the driving: the one that stands for the photo
    config.relative_motion = True  # add the driving's change since that frame; False: take its pose and face
    # The avatar
    config.weights = "reenact_demo"  # of the reconstructor: an embedded name, or a path
    config.personalise_steps = 100  # optimisation of the tri-planes for this photo; 0 turns it off
    config.neck_share = 1.0  # of a head turn: 1, the neck makes it and the shoulders stay; 0, the bust turns
    config.coarse_samples = 16  # evenly spaced samples a ray
    config.fine_samples = 16  # and those placed where the coarse ones found something
    # What comes out
    config.panel = 384  # height and width of one picture of the film, in pixels
    config.turntable_frames = 48  # of turntable.mp4
    config.turntable_yaw = 35.0  # degrees to either side
    config.mesh_resolution = 128  # cells of marching cubes along a side of the box
    config.stills = 5  # PNG pictures taken from the film, evenly spaced
    return config
