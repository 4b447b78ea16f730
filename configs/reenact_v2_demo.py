"""v2 at the size of `reenact_demo`, on OpenHeads' films: the frames of a clip are seen by one camera.

The static model is trained first: --config=configs/reenact_static_demo.py. Without it,
--config.multiview_every=0 --config.start=..., what pseudo views bring can be measured: OpenHeads renders the
true other sides (configs/evaluate.py, novel views).
"""

from ml_collections import ConfigDict

from . import reenact_demo


def get_config() -> ConfigDict:
    config = reenact_demo.get_config()
    config.name = "reenact_v2_demo"
    config.data.update({"openheads": 0, "films": config.batch})
    config.static_share = 0.0
    config.start = "reenact_static_demo.npz"  # weights of the static model
    config.static = config.start
    config.terms.update(depth=(0.0,), photo_depth=(0.0,))  # a film does not know it
    config.relief_alone = 0.0
    config.step.motion_rate = 2.5
    return config
