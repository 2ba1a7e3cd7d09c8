"""One silo and its local round. It reads only its own data directory, its own state and the instruction."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sase.config import from_mapping, naming
from sase.data.dataset import PairSet
from sase.data.fingerprint import RECORD, require_unchanged
from sase.data.remix import Mixtures
from sase.errors import InputError
from sase.federated.aggregation import update_norm
from sase.federated.clipping import released_model
from sase.federated.config import FederatedConfig
from sase.federated.exchange import CONTROL, Instruction, Reply
from sase.federated.layout import layout_of, load_arrays, to_arrays
from sase.federated.local_training import LocalTraining
from sase.federated.payload import encode, num_bytes
from sase.federated.personal import PersonalState, check_state
from sase.federated.speech import is_audible, utterances
from sase.model import build_model
from sase.training.config import TrainConfig
from sase.training.validation import PairSubset, measure_set


class Silo:
    """One silo. A round depends only on the instruction and this silo's state of an earlier round, so it is repeatable.

    Args:
        index: from 0.
        data_dir: contains ``tr/``, a dump directory, and optionally ``tt/``.
        state_dir: folder on the silo's own disk for ``state-<round>.pt``.
        device: for training.
    """

    def __init__(self, index: int, data_dir: str | Path, state_dir: str | Path, device: str = "cpu") -> None:
        self.index, self.data_dir, self.device = index, Path(data_dir), torch.device(device)
        self.personal = PersonalState(state_dir)
        self._pairs: dict[str, PairSet] = {}
        self._has_speech = False
        self._experiment = ""  # whose training set has been checked

    def run(self, instruction: Instruction) -> Reply:
        """Train one round and return the reply.

        Raises:
            InputError: invalid data, none with speech, or diverged training.
        """
        started = time.monotonic()
        train, fed = _configs(instruction)
        torch.manual_seed(train.seed)
        restored = self.personal.read(instruction)
        model = self._model(train, fed, instruction, restored)
        pairs = self._training_set(instruction, train)
        self._require_speech(pairs)
        mixtures = Mixtures(pairs, train.data, 1000 * train.seed + self.index)
        local = LocalTraining(model, mixtures, train, fed, instruction, restored)
        if fed.dp_clip_norm and local.layout.moments:  # whatever the server has checked
            raise InputError(
                f"silo {self.index}: refuses this round: dp_clip_norm does not bound the statistics of this network's "
                "norm layers; use model.norm=layer"
            )
        result = local.run()
        arrays = to_arrays(model, local.layout.names)
        self.personal.write(instruction, local.personal_state(arrays, result.control))
        arrays, numbers = released_model(arrays, instruction.model, local.layout.weights, fed)
        upload = _encode(fed.payload, instruction, arrays, result.control, local.layout.weights) | local.moments()
        shared = local.layout.shared_weights(fed.norm == "local")
        values = {
            "examples": train.data.batch_size * mixtures.batches_per_epoch,
            "steps": result.stats.steps,
            "bad_steps": result.stats.bad_steps,
            "loss": result.stats.means().get("loss", math.nan),
            "last_loss": result.last.means().get("loss", math.nan),
            "update_norm": update_norm(instruction.model, arrays, shared),
            "bytes": num_bytes(upload),
            "seconds": time.monotonic() - started,
            "train_began": result.started,
            "train_seconds": result.seconds,
            **numbers,
        }
        return Reply(self.index, instruction.round, upload, {name: float(value) for name, value in values.items()})

    def examples(self, instruction: Instruction) -> int:
        """Return the number of segments in an epoch of this silo, as :meth:`run` reports it; without training.

        Args:
            instruction: its arrays are not used.

        Raises:
            InputError: invalid data, or none with speech.
        """
        train, _ = _configs(instruction)
        pairs = self._training_set(instruction, train)
        self._require_speech(pairs)
        return train.data.batch_size * Mixtures(pairs, train.data, 0).batches_per_epoch

    def release(self) -> None:
        """Free the memory of the data, which are loaded again when they are needed."""
        self._pairs.clear()

    def evaluate(
        self,
        instruction: Instruction,
        personal: bool,
        measures: Sequence[str] = ("SI_SDR", "PESQ_WB", "STOI"),
        subset: str = "tt",
        utts: Collection[str] | None = None,
    ) -> dict[str, float]:
        """Score the instruction's model on this silo's own test set.

        Args:
            instruction: its ``round`` is one more than that of the model in it.
            personal: whether to use the silo's own norm layers of that round.
            measures: of :data:`sase.metrics.measures.METRICS`.
            subset: folder within the data directory.
            utts: the utterances to score; None for all in that folder.

        Returns:
            Measure to its mean over the utterances for which it is defined, and ``utterances``.
        """
        train, fed = _configs(instruction)
        restored = self.personal.read(instruction) if personal else {}
        if personal and "norms" not in restored:
            number = instruction.round - 1
            raise InputError(f"silo {self.index}: no norm layers of round {number} found in {self.personal.folder}")
        model = self._model(train, fed, instruction, restored)
        rows = measure_set(model, PairSubset(self._pair_set(subset, train), utts=utts), measures)
        means = {name: float(np.nanmean([row[name] for row in rows])) for name in measures}
        return {**means, "utterances": len(rows)}

    def _model(
        self, train: TrainConfig, fed: FederatedConfig, instruction: Instruction, restored: Mapping[str, Any]
    ) -> nn.Module:
        model = build_model(train.model).to(self.device)
        load_arrays(model, instruction.model)
        layout = layout_of(model)
        with naming(self.personal.folder):
            check_state(restored, layout, to_arrays(model, layout.names))
        if fed.norm == "local" and "norms" in restored:
            load_arrays(model, restored["norms"])
        return model

    def _require_speech(self, pairs: PairSet) -> None:
        """Check that not all clean audio is silent: losses ignore such utterances, so nothing would be learned."""
        self._has_speech = self._has_speech or any(is_audible(clean) for _, clean in utterances(pairs))
        if not self._has_speech:
            raise InputError(
                f"silo {self.index}: no speech in {self.data_dir / 'tr'}: the clean audio of all {len(pairs)} "
                "utterances is silent; this silo takes no part in training"
            )

    def _training_set(self, instruction: Instruction, train: TrainConfig) -> PairSet:
        """Return the training set; raise InputError if it is not that of the experiment's earlier rounds."""
        pairs, experiment = self._pair_set("tr", train), instruction.config["experiment"]
        if self._experiment != experiment or instruction.round == 1:
            record = self.personal.folder / RECORD
            advice = f"delete {RECORD} in the silo's state folder to train with it from now on"
            require_unchanged(record, {"training set": pairs}, instruction.round > 1, advice, experiment)
            self._experiment = experiment
        return pairs

    def _pair_set(self, name: str, train: TrainConfig) -> PairSet:
        folder = self.data_dir / name
        if name not in self._pairs:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; make the silos with 'sase partition'")
            self._pairs[name] = PairSet(folder, train.model.sample_rate, self.device)
        return self._pairs[name]


def _encode(
    payload: str,
    instruction: Instruction,
    arrays: Mapping[str, np.ndarray],
    control: Mapping[str, np.ndarray],
    weights: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return the upload: the trained model and, with SCAFFOLD, the control variate."""
    controls = {CONTROL + name: value for name, value in control.items()}
    reference = {**instruction.model, **{name: np.zeros_like(value) for name, value in controls.items()}}
    return encode(payload, {**arrays, **controls}, reference, {*weights, *controls})


def _configs(instruction: Instruction) -> tuple[TrainConfig, FederatedConfig]:
    return (
        from_mapping(TrainConfig, instruction.config["train"]),
        from_mapping(FederatedConfig, instruction.config["federated"]),
    )
