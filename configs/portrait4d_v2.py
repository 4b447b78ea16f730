"""v2: real films, and other views of their heads as a frozen static model renders them.

Source: docs/concepts/training.md, 8.4.
"""

from ml_collections import ConfigDict

from . import portrait4d


def get_config() -> ConfigDict:
    config = portrait4d.get_config()
    config.name = "portrait4d_v2"
    config.data.update({"genhead": 0, "real_films": 32})
    config.real_films = "films"  # folder of films (docs/howto/train_psi.md, "Data of a training")
    config.static_share = 0.0
    config.start = "portrait4d_static.npz"  # weights of the static model at 10 000 kimg
    config.static = config.start
    config.terms.update(
        {
            "features": (0.0,),
            "triplane": (0.0,),
            "depth": (0.0,),
            "identity": (1.0,),
            "adversarial": (0.01,),
            "density": (0.0,),
        }
    )
    config.step.update({"stages": ((0, 128),), "motion_rate": 2.5})
    config.loop.steps = 562_500
    return config
