"""Federated training: silos that never send audio, a server that never receives any, and the engines between them.

``sase federate --engine NAME`` imports the module ``ENGINES[NAME]``, an :class:`Engine`, and calls its ``run``. Only
modules of :mod:`sase.federated.flower` import or start flwr.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sase.federated.config import FederatedConfig
    from sase.training.config import TrainConfig

ENGINES = {
    "inproc": "sase.federated.inproc",
    "simulation": "sase.federated.flower.simulation",
    "deployment": "sase.federated.flower.deployment",
}


class Engine(Protocol):
    """A module that runs the rounds of a federation."""

    def run(
        self,
        train_config: TrainConfig,
        fed_config: FederatedConfig,
        silos_dir: str | Path | None,
        dev_set: str | Path,
        exp_dir: str | Path,
        device: str,
        options: Mapping[str, str],
    ) -> Any:
        """Return when all rounds are completed, raise otherwise.

        Args:
            train_config: of network and local training.
            fed_config: with the right ``num_silos``.
            silos_dir: folder with ``silo0`` ...; None if the silos are on other machines.
            dev_set: the server's development set, a dump directory.
            exp_dir: experiment folder.
            device: torch device.
            options: settings of this engine (``--engine-option port=18000``).
        """
