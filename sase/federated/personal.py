"""State that a silo keeps on its own disk between rounds: ``state-<round>.pt``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sase.atomic import remove_leftovers
from sase.config import naming
from sase.errors import InputError
from sase.federated.exchange import Instruction
from sase.federated.layout import Layout, to_numpy, to_tensors
from sase.model import read_checkpoint
from sase.training.checkpoint import check_fields, check_tensors, save_checkpoint

_ARRAYS = ("norms", "control", "dual")  # the parts of a state that are dicts of numpy arrays


class PersonalState:
    """The folder of a silo's personal states.

    A round reads only the state of an earlier round, so that a repeated round starts from the same state and overwrites
    its own. The states of the last two rounds are kept, and that of the best round, whose model may be scored later.

    Args:
        folder: created with the first state.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self, instruction: Instruction) -> dict[str, Any]:
        """Return the newest state of a round before the instruction's; empty if there is none.

        States of other experiments in the same folder are ignored.

        Raises:
            InputError: it is not readable, or damaged.
        """
        rounds = [number for number in self._rounds() if number < instruction.round]
        if not rounds:
            return {}
        path = self._path(max(rounds))
        state = read_checkpoint(path)
        with naming(path):
            check_fields(state, {"experiment": str, "round": int, "kept": dict})
            for name in _ARRAYS:
                check_fields(state["kept"].get(name, {}), {})
                for tensor in state["kept"].get(name, {}).values():
                    if not isinstance(tensor, torch.Tensor):
                        raise InputError(f"damaged: {name} holds a {type(tensor).__name__} instead of a tensor")
        if state["experiment"] != instruction.config["experiment"]:
            return {}
        return {name: to_numpy(value) if name in _ARRAYS else value for name, value in state["kept"].items()}

    def write(self, instruction: Instruction, state: Mapping[str, Any]) -> None:
        """Write the state of the instruction's round, nested dicts of arrays, tensors and plain types, unless empty."""
        if not state:
            return
        kept = {name: to_tensors(value) if name in _ARRAYS else value for name, value in state.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        content = {"experiment": instruction.config["experiment"], "round": instruction.round, "kept": kept}
        save_checkpoint(self._path(instruction.round), content)
        rounds, best = self._rounds(), instruction.config["best_round"]
        needed = {
            instruction.round,
            max((number for number in rounds if number < instruction.round), default=0),
            max((number for number in rounds if number <= best), default=0),
        }
        for number in set(rounds) - needed:  # including later rounds, which the server has discarded
            self._path(number).unlink()

    def _path(self, number: int) -> Path:
        return self.folder / f"state-{number}.pt"

    def _rounds(self) -> list[int]:
        numbers = (path.stem.removeprefix("state-") for path in self.folder.glob("state-*.pt"))
        return [int(number) for number in numbers if number.isdecimal()]


def check_state(state: Mapping[str, Any], layout: Layout, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise InputError for a state, as :meth:`PersonalState.read` returns it, that is not one of this network.

    Args:
        state: the state.
        layout: of the network.
        arrays: of the network: name to array.
    """
    expected = {
        "norms": [name for name in layout.names if name in layout.norms],
        "control": layout.weights,
        "dual": layout.weights,
    }
    for part, names in expected.items():
        if part in state:
            shapes = {name: arrays[name].shape for name in names}
            check_tensors(to_tensors(state[part]), shapes, f"the silo's own {part}")
