"""What stays on a silo's own disk between rounds: ``state-<round>.pt``. Round r reads that of an earlier round only."""

from pathlib import Path

import torch

from sase.atomic import remove_leftovers
from sase.model import read_checkpoint
from sase.training.checkpoint import save_checkpoint

_ARRAYS = ("norms", "control")  # parts of a state that are dicts of numpy arrays


class PersonalState:
    """The folder of a silo's personal states.

    A round that is repeated reads what it read the first time and writes its own state anew, so it starts alike. Kept
    are the states of the last two rounds and of the best one, whose model may have to be scored later.

    Args:
        folder: made when there is something to keep.
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def read(self, instruction):
        """Return the newest state of a round before the instruction's, as it was written; an empty dict for none.

        States of another experiment in the same folder are not looked at.
        """
        rounds = [number for number in self._rounds() if number < instruction.round]
        if not rounds:
            return {}
        state = read_checkpoint(self._path(max(rounds)))
        if state["experiment"] != instruction.config["experiment"]:
            return {}
        return {n: _to_numpy(value) if n in _ARRAYS else value for n, value in state["kept"].items()}

    def write(self, instruction, keep):
        """Write the state of the instruction's round: nested dicts of arrays, tensors and plain types; {} for none."""
        if not keep:
            return
        kept = {name: _to_tensors(value) if name in _ARRAYS else value for name, value in keep.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        state = {"experiment": instruction.config["experiment"], "round": instruction.round, "kept": kept}
        save_checkpoint(self._path(instruction.round), state)
        rounds, best = self._rounds(), instruction.config["best_round"]
        needed = {
            instruction.round,
            max((n for n in rounds if n < instruction.round), default=0),
            max((n for n in rounds if n <= best), default=0),
        }
        for number in set(rounds) - needed:  # those of later rounds as well: the server has gone back behind them
            self._path(number).unlink()

    def _path(self, number):
        return self.folder / f"state-{number}.pt"

    def _rounds(self):
        numbers = (path.stem.removeprefix("state-") for path in self.folder.glob("state-*.pt"))
        return [int(number) for number in numbers if number.isdecimal()]


def _to_tensors(arrays):
    return {name: torch.as_tensor(value) for name, value in arrays.items()}


def _to_numpy(tensors):
    return {name: value.numpy() for name, value in tensors.items()}
