"""Data-parallel training: sharding of batches, equality with one process, failures and resuming."""

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cluster import loss_curves

from helpers.checkpoints import assert_equal
from helpers.federation import wait_until
from helpers.strangers import ports_open_to_the_network
from sase.bin.main import main
from sase.data.remix import Batch
from sase.errors import InputError
from sase.losses.loss import BatchTotals, build_loss
from sase.model import build_model
from sase.processes import child_environment, sase_command
from sase.training import launch
from sase.training.batch_sharding import ShardedBackward, batch_backward, split
from sase.training.config import OptimiserConfig, build_optimizer, resume_key
from sase.training.distributed import Workers
from sase.training.loop import backward


class Alone(SimpleNamespace):
    """Fake of one of several processes, without the others."""

    def all_reduce_sum(self, values):
        return values


@pytest.fixture
def batch():
    """Seven rows: one whose reference is silent, one that is shorter."""
    clean, noise = torch.randn(2, 7, 3200, generator=torch.Generator().manual_seed(0)) * 0.1
    clean[2] = 0.0
    lengths = torch.full((7,), 3200)
    lengths[5] = 1900
    return Batch(clean + noise, clean, lengths, [f"u{row}" for row in range(7)])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model({"preset": "mini", "recurrent": 4, "bands": 8, "norm": "layer"})


def gradients(model, backward, batch, loss):
    model.zero_grad()
    values = backward(model, batch, build_loss(loss), nullcontext)
    return values, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_rows_are_split_evenly_and_completely():
    assert split(6, 2) == [(0, 3), (3, 6)]
    assert split(7, 3) == [(0, 2), (2, 4), (4, 7)]
    assert split(3, 3)[1] == (1, 2)


@pytest.mark.parametrize("loss", [{"si_snr": 1.0}, {"compressed_spectral": 0.5, "sdr": 1.0, "log_mel": 0.1}])
@pytest.mark.parametrize("world_size, micro_batch_size", [(1, 3), (1, 1), (2, 0), (3, 2), (7, 0)])
def test_shares_add_up_to_the_whole_batch(model, batch, loss, world_size, micro_batch_size):
    expected, whole = gradients(model, backward, batch, loss)
    values, sums = dict.fromkeys(expected, 0.0), torch.zeros_like(whole)
    for rank in range(world_size):
        sharded = ShardedBackward(Alone(rank=rank, world_size=world_size), 7, micro_batch_size)
        model.no_sync = torch.enable_grad  # in place of the method of DistributedDataParallel
        mine, gradient = gradients(model, sharded, batch, loss)
        sums += gradient / world_size  # DistributedDataParallel averages gradients
        values = {name: values[name] + mine[name] for name in values}
    assert values == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(sums, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


def test_losses_of_shards_sum_to_the_loss_of_the_batch(batch):
    criterion = build_loss({"si_snr": 1.0, "mse": 3.0})
    total, terms = criterion(batch.noisy, batch.clean, batch.lengths)
    whole = BatchTotals.of(batch.clean, batch.lengths)
    assert (whole.utterances, int(whole.audible)) == (7, 6)
    parts = [batch.rows(first, last) for first, last in ((0, 1), (1, 3), (3, 7))]
    shares = [criterion(part.noisy, part.clean, part.lengths, whole) for part in parts]
    assert sum(float(share) for share, _ in shares) == pytest.approx(float(total), rel=1e-5, abs=1e-6)
    assert sum(float(each["mse"]) for _, each in shares) == pytest.approx(float(terms["mse"]), rel=1e-5)
    silent = criterion(*(tensor[2:3] for tensor in (batch.noisy, batch.clean, batch.lengths)), whole)[1]
    assert float(silent["si_snr"]) == 0.0


def test_a_batch_smaller_than_the_world_size_is_rejected():
    with pytest.raises(InputError, match="data.batch_size is 2, too small for 3 processes"):
        ShardedBackward(Alone(rank=0, world_size=3), 2)


def test_one_process_with_whole_batches_uses_the_plain_backward_pass():
    assert batch_backward(Alone(rank=0, world_size=1), 6) is backward
    assert isinstance(batch_backward(Alone(rank=0, world_size=1), 6, 4), ShardedBackward)


def test_rank_0_shuts_down_last(monkeypatch):
    left, store, cpu = [], torch.distributed.HashStore(), torch.device("cpu")
    shut_down = "destroy_process_group"
    monkeypatch.setattr(torch.distributed, shut_down, lambda: left.append(threading.current_thread().name))
    threads = [threading.Thread(target=Workers(rank, 3, cpu, store).shut_down, name=str(rank)) for rank in range(3)]
    for thread in threads:
        thread.start()
        thread.join(0.2)
    for thread in threads:
        thread.join(60)
    assert left == ["1", "2", "0"]


@pytest.mark.recipe
def test_sgd_is_plain():
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = build_optimizer(OptimiserConfig(optimizer="sgd", learning_rate=0.5), [weight], weight.device)
    for _ in range(2):
        optimizer.zero_grad()
        (3.0 * weight).sum().backward()
        optimizer.step()
    assert weight.item() == 2.0 - 2 * 0.5 * 3.0


def test_settings_that_do_not_affect_the_result_may_change():
    mapping = {"train": {"epochs": 3}}
    assert resume_key(mapping) == resume_key({"train": {"epochs": 3, "micro_batch_size": 5, "optimizer": "adamw"}})
    assert resume_key(mapping) != resume_key({"train": {"epochs": 3, "optimizer": "sgd"}})


def test_nodes_find_the_rendezvous_endpoint(tmp_path):
    assert launch._rendezvous_endpoint(1, "node7:1234") == "node7:1234"
    endpoint = launch._rendezvous_endpoint(0, tmp_path / "new/rendezvous")
    assert endpoint.rpartition(":")[2].isdecimal()
    assert launch._rendezvous_endpoint(1, str(tmp_path / "new/rendezvous")) == endpoint
    with pytest.raises(InputError, match="--num-nodes needs --rendezvous"):
        launch._rendezvous_endpoint(0, None)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--ngpu", 99), "--ngpu 99: "),
        (("--processes", -1), "--processes -1: must be 1 or more"),
        (("--num-nodes", 2, "--node-rank", 2), "--node-rank 2: must be from 0 to 1"),
        (("--set", "train.micro_batch_size=-1"), "train.micro_batch_size must be 0 or more, not -1"),
        (("--set", "train.optimizer=lbfgs"), "train.optimizer is 'lbfgs'; choose from adamw, sgd"),
    ],
)
def test_invalid_options_are_reported_in_one_line(tmp_path, monkeypatch, options, message):
    (tmp_path / "train.yaml").write_text(loss_curves.CONFIG)
    required = [item for name in ("train-set", "dev-set", "exp") for item in (f"--{name}", tmp_path / name)]
    command = ["sase", "train", "--config", tmp_path / "train.yaml", *required, *options]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert message in exit_.value.code
    assert exit_.value.code.count("\n") == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("curves")


@pytest.fixture(scope="module")
def reference(folder):
    """The losses of one process."""
    return loss_curves.one(folder).losses()


@pytest.fixture(scope="module")
def undisturbed(folder):
    return loss_curves.two(folder)


@pytest.mark.recipe
def test_two_processes_have_the_losses_of_one(reference, undisturbed):
    assert len(reference) == 50
    assert reference[-1] < reference[0] - 1.0
    assert loss_curves.difference(undisturbed.losses(), reference) < loss_curves.TOLERANCE


@pytest.mark.recipe
@pytest.mark.parametrize("name", ["one, in three parts", "four, in parts of one", "two machines of one"])
def test_micro_batches_and_nodes_have_the_losses_of_one_process(folder, reference, name):
    assert loss_curves.difference(loss_curves.RUNS[name](folder).losses(), reference) < loss_curves.TOLERANCE


@pytest.mark.recipe
def test_checkpoints_move_between_one_process_and_two(folder, reference):
    moved = loss_curves.moved(folder)
    assert len(moved.resumed()) == 2
    assert loss_curves.difference(moved.losses(), reference) < loss_curves.TOLERANCE


@pytest.mark.recipe
def test_a_killed_process_resumes_from_the_last_checkpoint(folder, undisturbed):
    killed = loss_curves.killed(folder)
    assert len(killed.resumed()) == 1
    assert killed.resumed()[0] >= killed.saved_steps > 0
    assert killed.losses() == undisturbed.losses()
    ends = [torch.load(each.exp / "checkpoint.pt", weights_only=True) for each in (killed, undisturbed)]
    assert_equal(*ends)


@pytest.mark.recipe
def test_training_resumes_when_a_lost_node_returns(folder, undisturbed):
    lost = loss_curves.machine_lost(folder)
    assert len(lost.resumed()) == 1
    assert lost.losses() == undisturbed.losses()


@pytest.mark.recipe
def test_errors_that_a_restart_cannot_fix_stop_all_processes(folder, undisturbed):
    command = sase_command(*undisturbed.arguments, "--processes", 2, "--set", "train.learning_rate=0.5")
    done = subprocess.run(command, env=child_environment(1), capture_output=True, text=True, timeout=300)
    lines = set(done.stderr.splitlines())
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1, done.stderr
    assert "this training started with another configuration (train.learning_rate is 0.5, was 0.02)" in lines.pop()
    assert os.path.exists(undisturbed.exp / "checkpoint.pt")


def processes_in(exp):
    """Return ``/proc/PID/cmdline`` of all processes that train in an experiment folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ends meanwhile
            if os.fsencode(exp) in path.read_bytes().split(b"\0"):
                found.append(path)
    return found


@pytest.mark.recipe
def test_ctrl_c_in_a_training_of_two_processes_saves_and_ends_all_of_them(folder):
    options = ["--processes", 2, "--set", "train.epochs=1", "--set", "train.steps_per_epoch=100"]
    options += ["--set", "train.checkpoint_s=0.2"]
    whole, stopped = (loss_curves.Experiment(folder, f"{name} epoch") for name in ("whole", "stopped"))
    whole.run(*options)
    process, saved = stopped.start(*options), stopped.exp / "checkpoint.pt"
    wait_until(saved.exists, process, "the first checkpoint", patience_s=300.0)
    pids = {int(path.parent.name) for path in processes_in(stopped.exp)}
    assert len(pids) == 3  # torchrun and two ranks
    assert not ports_open_to_the_network(pids)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    wait_until(lambda: not processes_in(stopped.exp), what="all processes", patience_s=60.0)
    (step,) = re.findall(r"interrupted at step (\d+), saved", (stopped.exp / "train.log").read_text())
    assert 0 < torch.load(saved, weights_only=True)["step"] == int(step) < 100
    stopped.run(*options)
    assert stopped.resumed() == [int(step)]
    assert_equal(*(torch.load(each.exp / "checkpoint.pt", weights_only=True) for each in (stopped, whole)))
