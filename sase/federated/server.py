"""The server: the global model, one round at a time, and everything needed to go on after being killed."""

import hashlib
import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch

from sase.config import to_mapping
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.federated import privacy
from sase.federated.admission import admit
from sase.federated.aggregation import aggregate, moving_average, nova_factors, silo_weights
from sase.federated.config import checked
from sase.federated.layout import layout_of, load_arrays, to_arrays
from sase.federated.ledger import add_timing, check_and_write_configs, resume_key, write_rounds
from sase.federated.payload import num_bytes
from sase.federated.server_optimiser import ServerOptimiser
from sase.federated.silo import CONTROL, Instruction
from sase.model import load_model, save_model
from sase.training.checkpoint import load_checkpoint, save_checkpoint
from sase.training.initial import initial_model
from sase.training.validation import PairSubset, development_scores, validate

log = logging.getLogger(__name__)


class Server:
    """Holds the global model of an experiment; made again on the same folder, it goes on from the last whole round.

    Args:
        train_config: a :class:`sase.training.config.TrainConfig`.
        fed_config: a :class:`sase.federated.config.FederatedConfig`.
        dev_set: dump directory that scores every round.
        exp_dir: the experiment folder: ``config.yaml``, ``fl.yaml``, ``server.pt`` (the state), ``best.pt``,
            ``last.pt``, ``rounds.jsonl``, ``round_timing.jsonl``.
        device: where to score.

    Raises:
        InputError: a folder begun with another config, a corrupt state, configs that do not go together.
    """

    def __init__(self, train_config, fed_config, dev_set, exp_dir, device="cpu"):
        self.train, self.config, self.exp_dir = train_config, checked(fed_config), Path(exp_dir)
        self._decisive = check_and_write_configs(exp_dir, train_config, fed_config)
        self.model = initial_model(train_config).to(device)
        self.layout = layout_of(self.model)
        if fed_config.norm == "none" and self.layout.moments:
            raise InputError(
                "federated config: norm is none, but this network's norms keep statistics; use model.norm=layer"
            )
        if fed_config.dp_noise_multiplier:
            privacy.require_accountable(fed_config)
        pairs = PairSet(dev_set, train_config.model.sample_rate, torch.device(device))
        self._dev = PairSubset(pairs, fed_config.dev_s)
        self._common = PairSubset(pairs, fed_config.common_dev_s)
        self.optimiser = ServerOptimiser(
            fed_config.server,
            fed_config.effective_server_lr,
            fed_config.momentum,
            fed_config.beta2,
            fed_config.adaptivity,
        )
        self.history, self.best_round, self.refusals = [], 0, {}
        self._controls, self._attempt = {}, None
        self._arrays = to_arrays(self.model, self.layout.names)  # of the newest global model, from which silos go on;
        self._kept = self._arrays  # and of what is scored and kept: that, or its average over rounds. self.model has it
        if self.state_path.exists():
            self._resume()

    @property
    def state_path(self):
        """Of the file that holds everything needed to go on."""
        return self.exp_dir / "server.pt"

    @property
    def next_round(self):
        """The number of the next round, from 1."""
        return len(self.history) + 1

    @property
    def finished(self):
        """Whether all rounds are done."""
        return len(self.history) >= self.config.num_rounds

    @property
    def last_trouble(self):
        """The last thing that went wrong in the present round, in words."""
        troubles = [*self._attempt.failed, *self._attempt.refused] if self._attempt else []
        return troubles[-1] if troubles else "none answered"

    def instruction(self):
        """Return the :class:`sase.federated.silo.Instruction` of the next round; the same until that has advanced."""
        if self._attempt is None:
            arrays = dict(self._arrays)
            if self._controls:
                silos = [self._controls[silo] for silo in sorted(self._controls)]
                for name in self.layout.weights:
                    mean = np.mean([control[name] for control in silos], axis=0, dtype=np.float64)
                    arrays[CONTROL + name] = mean.astype(np.float32)
            self._attempt = _Attempt(Instruction(self.next_round, arrays, self._instruction_config()))
        return self._attempt.instruction

    def best_instruction(self):
        """Return the instruction with which :meth:`sase.federated.silo.Silo.evaluate` scores the best model so far."""
        arrays = to_arrays(load_model(self.exp_dir / "best.pt"), self.layout.names)
        return Instruction(self.best_round + 1, arrays, self._instruction_config())

    def finish_round(self, replies, failures):
        """Take the answers of a round and make the next global model of them, unless they are too few.

        Args:
            replies: list of :class:`sase.federated.silo.Reply`, in any order.
            failures: list of str, one a silo that did not answer: who and why.

        Returns:
            True when the round advanced (and its state is on the disk), False when it must be repeated.
        """
        answered, instruction = time.monotonic(), self.instruction()
        admitted, refused = admit(replies, instruction, self.config, self.layout)
        gains = {}
        if self.config.strategy == "sase":
            gains, unsound = self._gains(admitted)
            admitted, refused = [reply for reply in admitted if reply.silo in gains], refused | unsound
        self._attempt.add(failures, refused)
        for silo, reason in refused.items():
            self.refusals[str(silo)] = self.refusals.get(str(silo), 0) + 1
            log.warning(
                "round %d: silo %d is refused (%d so far): %s", self.next_round, silo, self.refusals[str(silo)], reason
            )
        for failure in failures:
            log.warning("round %d: %s", self.next_round, failure)
        if len(admitted) < self.config.needed_silos:
            log.warning(
                "round %d: %d good replies, %d are needed", self.next_round, len(admitted), self.config.needed_silos
            )
            return False
        alphas = self._weigh(admitted, gains)
        steps = [reply.metrics["steps"] for reply in admitted]
        factors = nova_factors(alphas, steps) if self.config.fednova else None
        local = self.config.norm == "local"
        arrays = aggregate(
            instruction.model, [reply.arrays for reply in admitted], alphas, self.layout, self.optimiser, factors, local
        )
        if bad := next((name for name, value in arrays.items() if not np.isfinite(value).all()), None):
            raise InputError(
                f"round {self.next_round}: {bad} of the new global model is not finite; lower server_lr "
                f"({self.config.effective_server_lr:g}); {self.exp_dir / 'best.pt'} is kept"
            )
        decay = self.config.average_decay if self.history else 0.0  # the average begins with the first round
        self._kept = moving_average(self._kept, arrays, decay, self.layout) if decay else arrays
        self._arrays = arrays
        load_arrays(self.model, self._kept)
        self._controls.update({reply.silo: reply.control for reply in admitted if reply.control})
        aggregated = time.monotonic()
        entry = self._entry(admitted, alphas, gains, instruction)
        began = self._attempt.began
        self._keep(entry)
        done = time.monotonic()
        seconds = {
            "seconds": done - began,
            "exchange": answered - began,
            "aggregate": aggregated - answered,
            "score_and_save": done - aggregated,
        }
        add_timing(self.exp_dir, entry["round"], seconds, admitted)
        shown = " ".join(f"{name} {value}" for name, value in entry.items() if name.startswith("dev_"))
        alpha = " ".join(f"{values['alpha']:.3f}" for values in entry["silos"].values())
        log.info(
            "round %d/%d done, %.0f s: %s, silos %s, weights %s",
            entry["round"],
            self.config.num_rounds,
            done - began,
            shown,
            " ".join(entry["silos"]),
            alpha,
        )
        return True

    def _instruction_config(self):
        return {
            "train": to_mapping(self.train),
            "federated": to_mapping(self.config),
            "experiment": hashlib.sha256(json.dumps(self._decisive, sort_keys=True).encode()).hexdigest()[:16],
            "best_round": self.best_round,
        }

    def _gains(self, admitted):
        """Return silo to what its update alone gains in SI-SNR (dB) on the common set, and silo to why it has none."""
        load_arrays(self.model, self._arrays)
        before, _ = validate(self.model, self._common)
        gains, refused = {}, {}
        for reply in admitted:
            load_arrays(self.model, reply.arrays)
            after, _ = validate(self.model, self._common)
            if math.isfinite(after):
                gains[reply.silo] = after - before
            else:
                refused[reply.silo] = "its network's output is not finite"
        load_arrays(self.model, self._kept)
        return gains, refused

    def _weigh(self, admitted, gains):
        return silo_weights(
            self.config.strategy,
            [reply.metrics["examples"] for reply in admitted],
            [reply.metrics["last_loss"] for reply in admitted],
            [gains.get(reply.silo, 0.0) for reply in admitted],
            self.config.tau,
            self.config.gamma,
            self.config.alpha_min,
        )

    def _entry(self, admitted, alphas, gains, instruction):
        silos = {}
        for reply, alpha in zip(admitted, alphas):
            told = {name: reply.metrics[name] for name in ("examples", "steps", "loss", "last_loss")}
            told |= {"bad_steps": reply.metrics.get("bad_steps", 0.0), "update_norm": reply.update_norm, "alpha": alpha}
            if gains:
                told["gain_db"] = gains[reply.silo]
            told = {name: round(float(value), 6) for name, value in told.items()}
            silos[str(reply.silo)] = {**told, "bytes": reply.bytes}
        dev = development_scores(self.model, self._dev, self.train.train.select_by)
        chosen = f"dev_{self.train.train.select_by}"
        best = max((entry[chosen] for entry in self.history), default=-math.inf)
        return {
            "round": self.next_round,
            **self._attempt.told(),
            "silos": silos,
            "bytes_up": sum(reply.bytes for reply in admitted),
            "bytes_down": self.config.num_silos * num_bytes(instruction.arrays),
            **self._privacy(),
            **dev,
            "best": dev[chosen] > best,
        }

    def _privacy(self):
        config = self.config
        if not config.dp_noise_multiplier:
            return {}
        rounds = self.next_round
        epsilon = privacy.published_epsilon(config.dp_noise_multiplier, config.num_silos, rounds, config.dp_delta)
        log.info(
            "differential privacy of a silo in the models of %d rounds: ε = %.3g, δ = %g",
            rounds,
            epsilon,
            config.dp_delta,
        )
        return {"epsilon": round(epsilon, 4)}

    def _keep(self, entry):
        """Make the round's result last; ``server.pt`` decides, so a server killed before it makes the round again."""
        self.history.append(entry)
        if entry["best"]:
            self.best_round = entry["round"]
            save_model(self.model, self.exp_dir / "best.pt")
        save_model(self.model, self.exp_dir / "last.pt")
        save_checkpoint(self.state_path, self._state())
        write_rounds(self.exp_dir, self.history)
        self._attempt = None

    def _state(self):
        optimizer = {moment: _tensors(arrays) for moment, arrays in self.optimiser.state().items()}
        newest = {} if self._kept is self._arrays else _tensors(self._arrays)
        return {
            "config": self._decisive,
            "model_config": to_mapping(self.train.model),
            "model": self.model.state_dict(),
            "newest": newest,
            "optimizer": optimizer,
            "controls": {str(silo): _tensors(control) for silo, control in self._controls.items()},
            "history": self.history,
            "best_round": self.best_round,
            "refusals": self.refusals,
        }

    def _resume(self):
        state = load_checkpoint(self.state_path, self._decisive, resume_key)
        self.model.load_state_dict(state["model"])
        self._arrays = self._kept = to_arrays(self.model, self.layout.names)
        if newest := state.get("newest"):  # which an earlier version did not have
            self._arrays = _numpy(newest)
        self.optimiser.load({moment: _numpy(tensors) for moment, tensors in state["optimizer"].items()})
        self._controls = {int(silo): _numpy(tensors) for silo, tensors in state["controls"].items()}
        self.history, self.best_round, self.refusals = state["history"], state["best_round"], state["refusals"]
        write_rounds(self.exp_dir, self.history)
        log.info("resumed from %s: %d of %d rounds done", self.state_path, len(self.history), self.config.num_rounds)


class _Attempt:
    """A round that has begun: what silos were told, and what went wrong so far, over its repetitions."""

    def __init__(self, instruction):
        self.instruction, self.began = instruction, time.monotonic()
        self.count, self.failed, self.refused = 0, [], []

    def add(self, failures, refused):
        self.count += 1
        self.failed += failures
        self.refused += [f"silo {silo}: {reason}" for silo, reason in refused.items()]

    def told(self):
        return {"attempts": self.count, "failed": self.failed, "refused": self.refused}


def run_rounds(server, exchange):
    """Run all rounds that are left.

    Args:
        server: a :class:`Server`.
        exchange: called with an instruction; returns the silos' replies and a line for each that failed. It waits no
            longer than ``round_timeout_s``.

    Raises:
        InputError: a round that did not advance in ``1 + max_repeats`` attempts. The last good model is kept.
    """
    config = server.config
    while not server.finished:
        instruction, number = server.instruction(), server.next_round
        for attempt in range(config.max_repeats + 1):
            if attempt:
                log.warning("round %d is repeated (%d of %d)", number, attempt, config.max_repeats)
                time.sleep(config.repeat_wait_s)
            replies, failures = exchange(instruction)
            if server.finish_round(replies, failures):
                break
        else:
            kept = f"the model of round {number - 1} is kept" if number > 1 else "there is no model yet"
            raise InputError(
                f"round {number} failed {config.max_repeats + 1} times: fewer than {config.needed_silos} silos gave a "
                f"good reply ({server.last_trouble}); {kept}; the same command goes on from there"
            )


def _tensors(arrays):
    return {name: torch.as_tensor(np.asarray(value)) for name, value in arrays.items()}


def _numpy(tensors):
    return {name: value.numpy() for name, value in tensors.items()}
