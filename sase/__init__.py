"""SASE: speech enhancement with self-adaptive attention, trained centrally or federated.

``from sase import Enhancer`` is the public interface; everything else is imported from its own module.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sase.enhancer import Enhancer

__version__ = "0.1.0"
__all__ = ["Enhancer", "__version__"]


def __getattr__(name: str) -> object:
    # Imported on first use: data preparation and scoring must not wait seconds for torch.
    if name == "Enhancer":
        from sase.enhancer import Enhancer

        return Enhancer
    raise AttributeError(f"module 'sase' has no attribute {name!r}")
