"""Central training: epochs, validation, checkpoints and history."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from sase.atomic import remove_leftovers, write_text
from sase.config import naming, read_yaml, to_mapping, to_yaml
from sase.data.dataset import PairSet
from sase.data.feed import draw_batches
from sase.data.fingerprint import RECORD, require_unchanged
from sase.data.remix import Mixtures
from sase.errors import InputError
from sase.jsonfile import append_jsonl, write_jsonl
from sase.losses.loss import build_loss
from sase.model import SASE, save_model
from sase.progress import progress_bar
from sase.training import tensorboard
from sase.training.batch_sharding import batch_backward
from sase.training.checkpoint import (
    check_fields,
    first_difference,
    load_checkpoint,
    load_optimizer,
    load_weights,
    save_checkpoint,
    with_number,
)
from sase.training.config import LENGTH, TrainConfig, build_optimizer, resume_key
from sase.training.distributed import Workers
from sase.training.initial import initial_model
from sase.training.interruption import Interruption
from sase.training.loop import EpochStats, GradientGuard, TrainingStep, learning_rate, train_epoch
from sase.training.performance import autocast, compile_network, eager, training_precision
from sase.training.selection import is_best, labels_of, mean_scores
from sase.training.tensorboard import EventWriter, examples_of, is_due
from sase.training.validation import development_scores

TRAINING_FILES = (
    *("checkpoint.pt", "server.pt", "best.pt", "last.pt", "sampling.key"),
    *("history.jsonl", "timing.jsonl", "rounds.jsonl", "round_timing.jsonl", "audit.jsonl", "silo_tests.jsonl"),
    *("config.yaml", "fl.yaml", RECORD),
)

log = logging.getLogger(__name__)


class Trainer:
    """Trains a network in an experiment folder; on a folder with a checkpoint, it resumes.

    Args:
        config: a :class:`sase.training.config.TrainConfig`.
        train_set: a dump directory.
        dev_sets: one or more dump directories. Their mean scores, each set counting the same, select the best epoch.
        exp_dir: the experiment folder; an existing ``config.yaml`` must match on resume.
        workers: a :class:`sase.training.distributed.Workers`.

    Raises:
        InputError: the folder has a different configuration or a corrupt checkpoint, its training started with other
            data, or a data set is not usable.
    """

    def __init__(
        self,
        config: TrainConfig,
        train_set: str | Path,
        dev_sets: str | Path | Sequence[str | Path],
        exp_dir: str | Path,
        workers: Workers,
    ) -> None:
        self.config, self.exp_dir, self.workers = config, Path(exp_dir), workers
        self.checkpoint_path = self.exp_dir / "checkpoint.pt"
        self._require_same_config()
        rate = config.model.sample_rate
        pairs = PairSet(train_set, rate, workers.device)
        folders = [dev_sets] if isinstance(dev_sets, str | Path) else dev_sets
        labels = labels_of([str(folder) for folder in folders])
        self.dev_pairs = {
            label: PairSet(folder, rate, workers.device) for label, folder in zip(labels, folders, strict=True)
        }
        # Every rank draws the same batches and takes its own rows of each.
        self.mixtures = Mixtures(pairs, config.data, config.seed * 1000)
        self.backward = batch_backward(workers, config.data.batch_size, config.train.micro_batch_size)
        self.steps_per_epoch = config.train.steps_per_epoch or self.mixtures.batches_per_epoch
        self.model = initial_model(config).to(workers.device)
        self.criterion = build_loss(config.loss)
        train = config.train
        self.optimizer = build_optimizer(train, self.model.parameters(), workers.device)
        self.averaged: AveragedModel | None = None
        if train.ema_decay:
            self.averaged = AveragedModel(self.model, multi_avg_fn=_average(train.ema_decay), use_buffers=True)
        if train.compile:
            compile_network(self.model.network, workers.device)
        self.guard = GradientGuard(train.clip_norm, train.max_bad_steps)
        self.step, self.partial = 0, EpochStats()
        self.history: list[dict[str, Any]] = []
        self.interruption = Interruption()
        state = workers.broadcast(self._load)
        if workers.is_main:
            names = (f"development set{f' {number}' if number > 1 else ''}" for number in range(1, len(labels) + 1))
            sets = {"training set": pairs, **dict(zip(names, self.dev_pairs.values()))}
            self._claim_folder(sets, resumes=state is not None)
        workers.barrier()
        if state:
            self._resume(state)

    def run(self) -> list[dict[str, Any]]:
        """Train to the last epoch; return the history, one mapping per epoch.

        SIGINT and SIGTERM save a checkpoint, after the present step or, while the epoch is scored, at once.

        Raises:
            KeyboardInterrupt, SystemExit: on SIGINT and SIGTERM, once the checkpoint is saved.
        """
        with self.interruption.deferred():
            self._run()
        return self.history

    def _run(self) -> None:
        config = self.config.train
        wrapped: torch.nn.Module = self.model
        if self.workers.world_size > 1:
            ids = [self.workers.device.index] if self.workers.device.type == "cuda" else None
            wrapped = DistributedDataParallel(self.model, device_ids=ids)
        while len(self.history) < config.epochs:
            started = time.monotonic()
            stats = self._train_one_epoch(wrapped)
            if self.workers.is_main:
                self._finish_epoch(stats, started)
            else:
                self.history.append({})
            self.partial = EpochStats()
            if self.interruption.received and self.workers.is_main:
                self._stop()
            self.workers.barrier()

    @property
    def validated(self) -> SASE:
        """The network that is validated and saved: with the averaged weights where there are any."""
        return self.model if self.averaged is None else cast(SASE, self.averaged.module)

    def _train_one_epoch(self, model: torch.nn.Module) -> EpochStats:
        end = (len(self.history) + 1) * self.steps_per_epoch
        before, saved = self.partial, time.monotonic()
        step = TrainingStep(
            model,
            self.criterion,
            self.optimizer,
            self.guard,
            self._learning_rate,
            self.averaged,
            self._autocast,
            self.backward,
        )

        def on_step(stats: EpochStats) -> None:
            nonlocal saved
            self.step += 1
            bar.set_postfix(loss=f"{stats.means().get('loss', math.nan):.4f}", refresh=False)
            bar.update()
            if not self.workers.is_main:
                return  # rank 0 saves, and the other ranks end with it
            if self.interruption.received:
                self._save(before.merged(stats))
                self._stop()
            if time.monotonic() - saved > self.config.train.checkpoint_s and self.step < end:
                self._save(before.merged(stats))
                saved = time.monotonic()

        with (
            training_precision(self.config.train.precision, self.workers.device),
            self._progress_bar(self.steps_per_epoch - (end - self.step)) as bar,
        ):
            stats = train_epoch(step, draw_batches(self.mixtures, range(self.step, end)), on_step)
        return before.merged(stats)

    def _learning_rate(self) -> float:
        config = self.config.train
        total = config.epochs * self.steps_per_epoch
        return learning_rate(self.step, config.learning_rate, config.warmup_steps, total, config.final_ratio)

    def _autocast(self) -> torch.autocast:
        return autocast(self.config.train.precision, self.workers.device)

    def _progress_bar(self, done: int) -> tqdm:
        """Return a bar of one epoch on rank 0's terminal; where there is none, a line in the log every 30 s."""
        return progress_bar(
            f"epoch {len(self.history) + 1}/{self.config.train.epochs}",
            self.steps_per_epoch,
            "step",
            log.info,
            "{desc}: step {n}/{total}{postfix}",
            initial=done,
            leave=False,
            disable=not self.workers.is_main,
        )

    def _finish_epoch(self, stats: EpochStats, started: float) -> None:
        try:
            with self.interruption.at_once(), eager():
                by = self.config.train.select_by
                each = {label: development_scores(self.validated, p, by) for label, p in self.dev_pairs.items()}
        except (KeyboardInterrupt, SystemExit):
            self._save(stats)
            self._stop()
        means = {name: round(value, 6) for name, value in stats.means().items()}
        entry = {
            "epoch": len(self.history) + 1,
            "steps": self.step,
            "bad_steps": stats.bad_steps,
            **means,
            **mean_scores(each),
        }
        entry["best"] = is_best(entry, self.history, by, self.config.train.select_tolerance)
        self.history.append(entry)
        if entry["best"]:
            save_model(self.validated, self.exp_dir / "best.pt")
        self._save(EpochStats())
        seconds = time.monotonic() - started
        self._write_history()
        self._write_tensorboard()
        # Not part of the history, which is reproducible for a seed.
        append_jsonl(self.exp_dir / "timing.jsonl", {"epoch": entry["epoch"], "seconds": round(seconds, 1)})
        shown = " ".join(f"{k} {v}" for k, v in entry.items() if k not in ("epoch", "steps"))
        log.info("epoch %d/%d done, %.0f s: %s", entry["epoch"], self.config.train.epochs, seconds, shown)

    def _save(self, partial: EpochStats) -> None:
        state = {
            "config": to_mapping(self.config),
            "model_config": to_mapping(self.config.model),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "step": self.step,
            "history": self.history,
            "bad_in_a_row": self.guard.consecutive,
            "partial": {"steps": partial.steps, "bad_steps": partial.bad_steps, "sums": partial.sums},
        }
        save_checkpoint(self.checkpoint_path, state)

    def _load(self) -> dict[str, Any] | None:
        if self.checkpoint_path.exists():
            return load_checkpoint(self.checkpoint_path, to_mapping(self.config), resume_key, LENGTH)
        return None

    def _resume(self, state: dict[str, Any]) -> None:
        with naming(self.checkpoint_path):
            check_fields(state, {"step": int, "bad_in_a_row": int, "partial": dict})
            check_fields(state["partial"], {"steps": int, "bad_steps": int, "sums": dict})
            load_weights(self.model, state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
            if self.averaged is not None:
                load_weights(self.averaged, state.get("averaged"))
        self.step, self.history = state["step"], state["history"]
        self.partial, self.guard.consecutive = EpochStats(**state["partial"]), state["bad_in_a_row"]
        if self.workers.is_main:
            self._write_history()
            log.info("resumed from %s: step %d, %d epochs done", self.checkpoint_path, self.step, len(self.history))

    def _stop(self) -> NoReturn:
        log.info("interrupted at step %d, saved; run the same command to resume", self.step)
        self.interruption.stop()

    def _require_same_config(self) -> None:
        """Check the folder's ``config.yaml``, but for the number of epochs, which the checkpoint decides about."""
        path = self.exp_dir / "config.yaml"
        if not path.exists():
            return
        new = resume_key(to_mapping(self.config))
        old = with_number(resume_key(read_yaml(path)), LENGTH, self.config.train.epochs)
        if difference := first_difference(old, new):
            reason = f"this training started with another configuration ({difference}); use another --tag"
            raise InputError(f"{path}: {reason}")

    def _claim_folder(self, sets: Mapping[str, PairSet], resumes: bool) -> None:
        """Check that the data is that of the checkpoint, and write the folder's ``config.yaml``."""
        advice = "use another --tag, or start over with --restart"
        require_unchanged(self.exp_dir / RECORD, sets, resumes, advice)
        remove_leftovers(self.exp_dir)
        write_text(self.exp_dir / "config.yaml", to_yaml(self.config))

    def _write_history(self) -> None:
        write_jsonl(self.exp_dir / "history.jsonl", self.history)

    def _write_tensorboard(self) -> None:
        entry, examples = self.history[-1], {}
        if is_due(entry["epoch"], self.config.train.epochs):
            with eager():
                examples = examples_of(self.validated, next(iter(self.dev_pairs.values())))
        rate = self.optimizer.param_groups[0]["lr"]  # of the last step
        EventWriter(self.exp_dir).write(self.history, "steps", {"learning_rate": rate}, examples)


def discard_training(exp_dir: str | Path) -> None:
    """Delete what a central or federated training wrote into its folder and would resume from, so that it starts over.

    Enhanced speech and scores are kept: stages 4 and 5 find out that they belong to another model.
    """
    for name in TRAINING_FILES:
        (Path(exp_dir) / name).unlink(missing_ok=True)
    tensorboard.discard(exp_dir)


def _average(decay: float) -> Callable[..., None]:
    """Return the update of an exponential moving average whose decay warms up, since the first weights are random."""

    @torch.no_grad()
    def update(averages: list[torch.Tensor], weights: list[torch.Tensor], count: torch.Tensor | int) -> None:
        current = min(decay, (1.0 + float(count)) / (10.0 + float(count)))
        torch._foreach_lerp_(averages, weights, 1.0 - current)

    return update
