"""The server: the global model, one round at a time, with all state on disk so that a killed run resumes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from sase.config import naming, to_mapping
from sase.data.dataset import PairSet
from sase.data.fingerprint import RECORD, require_unchanged
from sase.errors import InputError, one_line
from sase.federated.admission import Admitted, admit
from sase.federated.attempts import Attempts
from sase.federated.audit import AuditTrail
from sase.federated.config import LENGTH, FederatedConfig, checked
from sase.federated.controls import Controls
from sase.federated.development import Development
from sase.federated.exchange import CONTROL, Instruction, Reply
from sase.federated.global_model import GlobalModel, new_optimiser
from sase.federated.layout import layout_of, load_arrays, to_arrays, to_numpy, to_tensors
from sase.federated.ledger import Ledger
from sase.federated.participation import sampled_silos
from sase.federated.payload import num_bytes
from sase.federated.private_rounds import PrivateRounds
from sase.federated.records import (
    add_timing,
    check_configs,
    check_server_state,
    experiment_id,
    resume_key,
    silo_record,
    without_later_defaults,
    write_configs,
)
from sase.federated.rollback import leave_out
from sase.federated.secure.admission import admit_mean
from sase.federated.spool import EarlierModels, Spool
from sase.model import load_model, save_model
from sase.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from sase.training.config import TrainConfig
from sase.training.initial import initial_model
from sase.training.selection import SI_SNR, is_best
from sase.training.tensorboard import EventWriter, examples_of, is_due

log = logging.getLogger(__name__)


class Server:
    """The global model of an experiment; created again on the same folder, it resumes from the last completed round.

    Args:
        train_config: of network and local training.
        fed_config: of the federation.
        dev_set: dump directory on which every round is scored.
        exp_dir: the experiment folder: ``config.yaml``, ``fl.yaml``, ``server.pt`` (the state), ``best.pt``,
            ``last.pt``, ``rounds.jsonl``, ``round_timing.jsonl``; during a round, ``replies/``.
        device: for scoring.

    Attributes:
        model: the network with the weights that are scored and saved.
        history: the records of the completed rounds, as in ``rounds.jsonl``.
        best_round: number of the round of ``best.pt``; 0 for none.
        refusals: silo (as a string) to the number of its rejected replies.
        spool: where an engine keeps the replies of a round, :meth:`sase.federated.spool.Spool.keep`, until it ends.
        audit: the audit trail; set its ``signer`` before the first round to have it signed.

    Raises:
        InputError: the folder was started with another config, its state is corrupt, or the configs are inconsistent.
    """

    def __init__(
        self,
        train_config: TrainConfig,
        fed_config: FederatedConfig,
        dev_set: str | Path,
        exp_dir: str | Path,
        device: str = "cpu",
    ) -> None:
        self.train, self.config, self.exp_dir = train_config, checked(fed_config), Path(exp_dir)
        self._resume_key = check_configs(exp_dir, train_config, fed_config)
        self._experiment = experiment_id(self._resume_key)
        self.model = initial_model(train_config).to(device)
        self.layout = layout_of(self.model)
        if fed_config.norm == "none" and self.layout.moments:
            raise InputError(
                "federated config: norm is none, but this network's norm layers keep statistics; use model.norm=layer"
            )
        if fed_config.shared_moments != "none" and train_config.train.optimizer != "adamw":
            raise InputError("federated config: shared_moments are those of adamw; set train.optimizer=adamw")
        self._privacy = PrivateRounds(fed_config, exp_dir)
        pairs = PairSet(dev_set, train_config.model.sample_rate, torch.device(device))
        self._development = Development(self.model, pairs, fed_config, train_config.train.select_by)
        self.audit = AuditTrail(exp_dir)
        self.history: list[dict[str, Any]] = []
        self.best_round = 0
        self.refusals: dict[str, int] = {}
        self._attempts: Attempts | None = None
        self._initial_db = -math.inf  # development SI-SNR before the first round, of weights that were given
        arrays = to_arrays(self.model, self.layout.names)
        self._global = GlobalModel(arrays, arrays, new_optimiser(fed_config))
        self._ledger = Ledger(exp_dir)
        self._controls = Controls(exp_dir, {name: arrays[name].shape for name in self.layout.weights})
        self.spool = Spool(self.exp_dir / "replies")
        self.spool.clear()
        self._earlier = EarlierModels(exp_dir, fed_config.max_staleness if fed_config.mode == "buffered" else 0)
        resumes = self.state_path.exists()
        if resumes:
            self._resume()
        advice = "use another --tag, or start over with --restart"
        require_unchanged(self.exp_dir / RECORD, {"development set": pairs}, resumes, advice)
        write_configs(exp_dir, train_config, fed_config)
        self._privacy.require_secret(len(self.history))

    @property
    def state_path(self) -> Path:
        """The file with everything needed to resume."""
        return self.exp_dir / "server.pt"

    @property
    def next_round(self) -> int:
        """The number of the next round, from 1."""
        return len(self.history) + 1

    @property
    def finished(self) -> bool:
        """Whether all rounds are completed."""
        return len(self.history) >= self.config.num_rounds

    @property
    def last_failure(self) -> str:
        """Description of the last failed or rejected reply in the current round."""
        failures = [*self._attempts.failed, *self._attempts.refused] if self._attempts else []
        return failures[-1] if failures else "no silo replied"

    @property
    def required_replies(self) -> int:
        """The number of valid replies that complete the current round."""
        return self._privacy.required(self._current_attempts().instruction.silos)

    def instruction(self) -> Instruction:
        """Return the instruction of the next round; until that round is completed, only its silos change.

        Without silos in it, the round has noise only: nobody is asked.
        """
        attempts, config = self._current_attempts(), self.config
        if config.participants == config.num_silos or attempts.instruction.silos is not None:
            return attempts.instruction
        silos = sampled_silos(config.num_silos, config.participants, self.train.seed, self.next_round, attempts.count)
        return replace(attempts.instruction, silos=silos)

    def best_instruction(self) -> Instruction:
        """Return the instruction with which :meth:`sase.federated.silo.Silo.evaluate` scores the best model so far."""
        arrays = to_arrays(load_model(self.exp_dir / "best.pt"), self.layout.names)
        return Instruction(self.best_round + 1, arrays, self._instruction_config())

    def model_instruction(self) -> Instruction:
        """Return the instruction with which :meth:`sase.federated.silo.Silo.evaluate` scores the present model."""
        arrays = to_arrays(self.model, self.layout.names)
        return Instruction(self.next_round, arrays, self._instruction_config())

    def admits(self, reply: Reply) -> bool:
        """Return whether a reply to the current round is valid by itself; nothing is counted or logged."""
        earlier = self._earlier.models
        return bool(admit([reply], self.instruction(), self.config, self.layout, self.history, earlier)[0])

    def finish_round(self, replies: Sequence[Reply], failures: Sequence[str]) -> bool:
        """Compute the next global model from the replies of a round, unless there are too few valid ones.

        Args:
            replies: in any order.
            failures: for each silo that did not reply, which one and why.

        Returns:
            True when the round is completed (and its state is on disk), False when it must be repeated.
        """
        try:
            return self._finish_round(replies, failures)
        finally:
            self.spool.clear()

    def _finish_round(self, replies: Sequence[Reply], failures: Sequence[str]) -> bool:
        received = time.monotonic()
        admitted = self._admit(replies, failures)
        if len(admitted) < (required := self.required_replies):
            log.warning("round %d: %d valid replies, %d required", self.next_round, len(admitted), required)
            return False
        candidate = self._candidate(admitted)
        aggregated = time.monotonic()
        candidate, scores = self._sound(candidate)
        if not math.isfinite(scores[SI_SNR]):
            load_arrays(self.model, self._global.averaged)
            return False
        self._accept(candidate)
        record = self._record(candidate, scores)
        started = self._current_attempts().started
        self._save(record)
        saved = time.monotonic()
        seconds = {
            "seconds": saved - started,
            "exchange": received - started,
            "aggregate": aggregated - received,
            "score_and_save": saved - aggregated,
        }
        add_timing(self.exp_dir, record["round"], seconds, candidate.silos)
        self._log_round(record, saved - started)
        return True

    def _current_attempts(self) -> Attempts:
        if self._attempts is None:
            control = {CONTROL + name: value for name, value in self._controls.mean().items()}
            silos = self._privacy.drawn(self.next_round)
            arrays = {**self._global.newest, **control, **self._global.moments}
            config = self._instruction_config(self._privacy.terms(self.history, silos))
            self._attempts = Attempts(Instruction(self.next_round, arrays, config, silos))
        return self._attempts

    def _instruction_config(self, terms: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Return what silos get, with the keys of the federated config that are those of one round only."""
        return {
            "train": to_mapping(self.train),
            "federated": without_later_defaults({**to_mapping(self.config), **terms}),
            "experiment": self._experiment,
            "best_round": self.best_round,
        }

    def _admit(self, replies: Sequence[Reply], failures: Sequence[str]) -> list[Admitted]:
        """Return the valid replies, with their gains where the strategy needs them; count and log the others."""
        attempts = self._current_attempts()
        if self.config.secure_aggregation:
            admitted = admit_mean(replies, attempts.instruction, self.config, self.layout)
            rejected: dict[int, str] = {}
        else:
            instruction = self.instruction()
            admitted, rejected = admit(
                replies, instruction, self.config, self.layout, self.history, self._earlier.models
            )
        if self.config.strategy == "sase":
            self._development.measure_gains(self._global, admitted)
            rejected |= {r.silo: "the output of its network is not finite" for r in admitted if r.gain_db is None}
            admitted = [reply for reply in admitted if reply.gain_db is not None]
        attempts.count += 1
        self._reject(rejected)
        for failure in map(one_line, failures):
            attempts.failed.append(failure)
            log.warning("round %d: %s", self.next_round, failure)
        return admitted

    def _reject(self, rejected: Mapping[int, str]) -> None:
        """Count and log rejected replies, {silo: reason}."""
        for silo, reason in rejected.items():
            self._current_attempts().refused.append(f"silo {silo}: {reason}")
            count = self.refusals[str(silo)] = self.refusals.get(str(silo), 0) + 1
            log.warning("round %d: reply of silo %d rejected (%d so far): %s", self.next_round, silo, count, reason)

    def _candidate(self, admitted: Sequence[Admitted]) -> GlobalModel:
        decay = self.config.average_decay if self.history else 0.0  # the average starts with the first round
        if not admitted:  # sampling: poisson has drawn too few
            noised = self._privacy.noise(self._global.newest, self.layout.weights, self.history)
            return self._global.with_noise(noised, self.config, self.layout, decay)
        return self._global.after(admitted, self.config, self.layout, decay, self.spool.scratch())

    def _sound(self, candidate: GlobalModel) -> tuple[GlobalModel, dict[str, float]]:
        """Return the model and its development scores; if it collapsed, of the silos that restore it.

        Restored is a model above the bound, or ``max_drop_db`` better than with all silos: the model before the round
        may have been close to the bound already. If leaving out silos does not restore it, none of them alone is the
        cause, and the model is returned as it is.
        """
        development, least = self._development, self.required_replies
        if self.config.secure_aggregation:
            least = len(candidate.silos)  # there is only the sum of all
        if not self.history:
            self._initial_db = development.initial_db(self._global, bool(self.train.init))
        lowest, scores = development.lowest_db(self.history, self._initial_db), development.scores(candidate)
        if scores[SI_SNR] >= lowest:
            return candidate, scores
        attempts, dropped_db = self._current_attempts(), scores[SI_SNR]
        log.warning("round %d: development SI-SNR %.2f dB; leaving out silos", self.next_round, dropped_db)
        enough = lowest if math.isnan(dropped_db) else min(lowest, dropped_db + self.config.max_drop_db)
        for kept in leave_out(candidate.silos, least, lambda some: development.quick_db(self._candidate(some))):
            other = self._candidate(kept)
            better = development.scores(other)
            if better[SI_SNR] >= enough:
                reason = f"with its update the development SI-SNR is {dropped_db:.2f} dB"
                self._reject({r.silo: reason for r in candidate.silos if r.silo not in [k.silo for k in kept]})
                attempts.rolled_back_from = dropped_db
                return other, better
        if name := candidate.not_finite:
            raise InputError(
                f"round {self.next_round}: {name} of the new global model is not finite; lower server_lr "
                f"({self.config.effective_server_lr:g}); {self.exp_dir / 'best.pt'} is unchanged"
            )
        attempts.collapsed = math.isfinite(dropped_db)  # otherwise the round is repeated
        attempts.failed.append(f"development SI-SNR {dropped_db:.2f} dB, whichever silos are left out")
        log.warning("round %d: %s", self.next_round, attempts.failed[-1])
        return candidate, scores

    def _accept(self, model: GlobalModel) -> None:
        """Replace the global model and the silos' control variates by those after this round."""
        self._global = model
        load_arrays(self.model, model.averaged)
        self._controls.write(self.next_round, {reply.silo: reply.control for reply in model.silos})

    def _record(self, model: GlobalModel, scores: Mapping[str, float]) -> dict[str, Any]:
        """Return the round's record for ``rounds.jsonl``."""
        attempts, train = self._current_attempts(), self.train.train
        record = {
            "round": self.next_round,
            **attempts.summary(),
            "silos": {str(reply.silo): silo_record(reply, alpha) for reply, alpha in zip(model.silos, model.alphas)},
            "bytes_up": sum(reply.bytes for reply in model.silos),
            "bytes_down": self._asked * num_bytes(attempts.instruction.arrays),
            **self._privacy.record(self.history, model.silos, self.next_round),
            **scores,
        }
        return {**record, "best": is_best(record, self.history, train.select_by, train.select_tolerance)}

    @property
    def _asked(self) -> int:
        """Number of silos that the current round asks."""
        silos = self._current_attempts().instruction.silos
        return self.config.participants if silos is None else len(silos)

    def _save(self, record: dict[str, Any]) -> None:
        """Save the completed round; ``server.pt`` decides: a server killed before it is written repeats the round."""
        self.history.append(record)
        if record["best"]:
            self.best_round = record["round"]
            save_model(self.model, self.exp_dir / "best.pt")
        save_model(self.model, self.exp_dir / "last.pt")
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.model.state_dict().items()}
        self.audit.add(self._experiment, record, arrays)
        save_checkpoint(self.state_path, self._state())
        self._ledger.append(record)
        self._earlier.add(record["round"], self._current_attempts().instruction.model)
        self._controls.remove_old()
        self._write_tensorboard(record)
        self._attempts = None

    def _write_tensorboard(self, record: Mapping[str, Any]) -> None:
        due = is_due(record["round"], self.config.num_rounds)
        examples = examples_of(self.model, self._development.pairs) if due else {}
        silos = {f"silo {silo}/{name}": value for silo, of in record["silos"].items() for name, value in of.items()}
        numbers = {**silos, "server_lr": self.config.effective_server_lr}
        EventWriter(self.exp_dir).write(self.history, "round", numbers, examples)

    def _log_round(self, record: Mapping[str, Any], seconds: float) -> None:
        log.info(
            "round %d/%d completed in %.0f s: %s, silos %s, weights %s",
            record["round"],
            self.config.num_rounds,
            seconds,
            " ".join(f"{name} {value}" for name, value in record.items() if name.startswith("dev_")),
            " ".join(record["silos"]),
            " ".join(f"{values['alpha']:.3f}" for values in record["silos"].values()),
        )

    def _state(self) -> dict[str, Any]:
        optimizer = {moment: to_tensors(arrays) for moment, arrays in self._global.optimiser.state().items()}
        newest = {} if self._global.averaged is self._global.newest else to_tensors(self._global.newest)
        return {
            "config": self._resume_key,
            "experiment": self._experiment,
            "model_config": to_mapping(self.train.model),
            "model": self.model.state_dict(),
            "newest": newest,
            "optimizer": optimizer,
            "moments": to_tensors(self._global.moments),
            "controls": self._controls.state(),
            "control_sum": self._controls.sum_state(),
            "records": self._ledger.state(self.history[-1]),
            "best_round": self.best_round,
            "refusals": self.refusals,
            "initial_db": self._initial_db,
        }

    def _resume(self) -> None:
        state = load_checkpoint(self.state_path, self._resume_key, resume_key, LENGTH, self._ledger.read)
        history = state["history"]
        with naming(self.state_path):
            check_server_state(state, to_arrays(self.model, self.layout.names), self.layout)
            load_weights(self.model, state["model"])
            controls, total = state["controls"], state.get("control_sum")
            self._controls.restore(controls, total, self.config.num_silos, len(history))
        self._controls.check_files()
        # With more rounds, it is still the experiment that the silos know; missing in states of an earlier version.
        self._experiment = state.get("experiment", experiment_id(resume_key(state["config"])))
        self._initial_db = state.get("initial_db", -math.inf)  # missing, as "newest", in states of an earlier version
        averaged = newest = to_arrays(self.model, self.layout.names)
        if stored := state.get("newest"):
            newest = to_numpy(stored)
        optimiser = new_optimiser(self.config)
        optimiser.load({moment: to_numpy(tensors) for moment, tensors in state["optimizer"].items()})
        self._global = GlobalModel(newest, averaged, optimiser, to_numpy(state.get("moments", {})))
        self.history, self.best_round, self.refusals = history, state["best_round"], state["refusals"]
        self._ledger.restore(state, history)
        log.info(
            "resumed from %s: %d of %d rounds completed", self.state_path, len(self.history), self.config.num_rounds
        )
