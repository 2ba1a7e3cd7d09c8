"""Training objectives, chosen by name and weight."""

from sase.losses.loss import LOSSES, build_loss
from sase.losses.objectives import OBJECTIVES

__all__ = ["LOSSES", "OBJECTIVES", "build_loss"]
