"""Training priors: images from real volumes, the loss, and the one loop."""

from medinv.training.config import TrainConfig
from medinv.training.loop import Progress, train

__all__ = ["Progress", "TrainConfig", "train"]
