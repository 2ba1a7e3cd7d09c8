"""Training objectives, chosen by name and weight."""

from sase.losses.objectives import LOSSES, OBJECTIVES, build_loss

__all__ = ["LOSSES", "OBJECTIVES", "build_loss"]
