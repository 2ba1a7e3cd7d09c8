"""SCAFFOLD's control variates at the server: the newest of each silo on disk, a file each, and their running sum."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sase.config import naming
from sase.errors import InputError
from sase.federated.layout import to_tensors
from sase.model import read_checkpoint
from sase.training.checkpoint import check_fields, check_tensors, save_checkpoint

FOLDER = "controls"  # in the experiment folder


class Controls:
    """The control variates of an experiment, ``controls/silo<k>-<round>.pt``, and their sum.

    The server keeps every silo's own, not only their mean: with differences alone it could bound what a silo adds in
    one round (:mod:`sase.federated.admission`), but not what a lying silo adds up to over many, and a silo that lost
    its state would stay in the mean for good. The sum makes a round read the files of its own silos, not those of all.

    The server's state names the files that count, so those of a round that was not completed do not.

    Args:
        exp_dir: the experiment folder.
        shapes: parameter name to shape.
    """

    def __init__(self, exp_dir: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.folder, self._shapes = Path(exp_dir) / FOLDER, shapes
        self._rounds: dict[int, int] = {}  # silo to the round of its newest one
        self._sum: dict[str, np.ndarray] = {}  # float64, of the newest ones
        self._sum_is_missing = False  # from the restored state

    def write(self, number: int, controls: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        """Store the control variates that silos sent in a round.

        Args:
            number: of the round.
            controls: silo to parameter name to array; silos without arrays are ignored.

        Raises:
            InputError: the file of an earlier one is missing or damaged.
        """
        for silo, arrays in controls.items():
            if arrays:
                if silo in self._rounds:
                    self._add(self._read(silo), -1.0)
                tensors = to_tensors(arrays)
                self._save(silo, number, tensors)
                self._add(tensors, 1.0)

    def mean(self) -> dict[str, np.ndarray]:
        """Return the mean over silos, float32, by parameter name; empty if no silo has sent one."""
        count = len(self._rounds)
        return {name: (total / count).astype(np.float32) for name, total in self._sum.items()}

    def state(self) -> dict[str, int]:
        """Return what the server's state holds: silo, as a string, to the round of its control variate."""
        return {str(silo): number for silo, number in self._rounds.items()}

    def sum_state(self) -> dict[str, torch.Tensor]:
        """Return the sum for the server's state; recomputed from the files, it could differ in the last bit."""
        return to_tensors(self._sum)

    def restore(self, state: Mapping[str, Any], total: Mapping[str, Any] | None, num_silos: int, number: int) -> None:
        """Continue with the control variates that a server's state names.

        Args:
            state: ``controls`` of the server's state; of an earlier version, silo to the control variate itself.
            total: its ``control_sum``; None in states of an earlier version.
            num_silos: number of silos.
            number: of the last completed round.

        Raises:
            InputError: the state is damaged.
        """
        check_fields(state, {})
        for silo, value in state.items():
            if silo not in map(str, range(num_silos)):
                raise InputError(f"damaged: a control variate of silo {silo}, which does not exist")
            if isinstance(value, Mapping):
                check_tensors(value, self._shapes, f"the control variate of silo {silo}")
                self._save(int(silo), number, value)
            else:
                check_fields(state, {silo: int})
                self._rounds[int(silo)] = value
        self._sum, self._sum_is_missing = {}, total is None
        if total is not None:
            check_tensors(total, self._shapes if state else {}, "the sum of the control variates")
            self._sum = {name: value.numpy().astype(np.float64) for name, value in total.items()}

    def check_files(self) -> None:
        """Read the files that the restored state names; raise InputError, with its name, if one is lost or damaged."""
        for silo in sorted(self._rounds):
            control = self._read(silo)
            if self._sum_is_missing:
                self._add(control, 1.0)

    def remove_old(self) -> None:
        """Delete the files that the server's state no longer names, after it has been saved."""
        current = {self._path(silo, number) for silo, number in self._rounds.items()}
        for path in self.folder.glob("silo*.pt"):
            if path not in current:
                path.unlink()

    def _add(self, control: Mapping[str, torch.Tensor], sign: float) -> None:
        for name, tensor in control.items():
            value = sign * np.asarray(tensor.numpy(), dtype=np.float64)
            self._sum[name] = self._sum[name] + value if name in self._sum else value

    def _path(self, silo: int, number: int) -> Path:
        return self.folder / f"silo{silo}-{number}.pt"

    def _save(self, silo: int, number: int, tensors: Mapping[str, torch.Tensor]) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_checkpoint(self._path(silo, number), {"control": tensors})
        self._rounds[silo] = number

    def _read(self, silo: int) -> dict[str, torch.Tensor]:
        path = self._path(silo, self._rounds[silo])
        control: dict[str, torch.Tensor] = read_checkpoint(path).get("control", {})
        with naming(path):
            check_tensors(control, self._shapes, f"the control variate of silo {silo}")
        return control
