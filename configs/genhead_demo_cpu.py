"""`genhead_demo` for two CPU cores and some hours: coarser tri-planes and rays, a quarter of the batch."""

from ml_collections import ConfigDict

from . import genhead_demo


def get_config() -> ConfigDict:
    config = genhead_demo.get_config()
    config.name = "genhead_demo_cpu"
    config.batch = 8
    config.model.plane_size = 64
    config.terms.surface = (0.5, 0.0, 10_000.0, True)
    config.step.update(
        {
            "samples": (8, 8),
            "reconstruction_every": 1,
            "reconstruction_images": 14_000.0,
            "stages": ((0, 32), (8_000, 64)),
            "average_half_life": 2_500.0,
        }
    )
    config.loop.update({"steps": 100_000, "minutes": 300.0, "log_every": 16, "grid_every": 200})
    return config
