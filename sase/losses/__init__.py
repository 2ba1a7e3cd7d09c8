"""Training objectives, chosen by name and weight."""

from sase.losses.objectives import LOSSES, build_loss

__all__ = ["LOSSES", "build_loss"]
