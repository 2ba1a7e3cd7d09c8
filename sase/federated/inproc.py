"""The engine ``inproc``: all silos train sequentially in this process, without flwr."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from sase.errors import InputError, one_line
from sase.federated.config import FederatedConfig
from sase.federated.exchange import Exchange, Instruction, Keep, Reply, in_memory
from sase.federated.rounds import run_rounds
from sase.federated.secure.local import forget_secrets, local_carrier, local_participant, make_local_keys
from sase.federated.secure.rounds import secure_exchange
from sase.federated.server import Server
from sase.federated.silo import Silo
from sase.federated.silo_tests import local_evaluation
from sase.training.config import TrainConfig

log = logging.getLogger(__name__)


def run(
    train_config: TrainConfig,
    fed_config: FederatedConfig,
    silos_dir: str | Path | None,
    dev_set: str | Path,
    exp_dir: str | Path,
    device: str = "cpu",
    options: Mapping[str, str] | None = None,
) -> Server:
    """Train in this process; return the server. For the arguments see :class:`sase.federated.Engine`.

    Raises:
        InputError: see :func:`sase.federated.rounds.run_rounds`; or something that this engine does not support.
    """
    if options:
        raise InputError(f"--engine inproc: unknown option {next(iter(options))}")
    if silos_dir is None:
        raise InputError("--engine inproc needs --silos")
    server = Server(train_config, fed_config, dev_set, exp_dir, device)
    silos = local_silos(silos_dir, fed_config.num_silos, exp_dir, device)
    exchange = local_exchange(silos, server.spool.keep)
    if fed_config.secure_aggregation:
        folder = Path(exp_dir) / "silos"
        roster = make_local_keys(folder, len(silos))
        carrier = local_carrier([local_participant(silo, folder) for silo in silos], server.spool.keep)
        exchange = secure_exchange(carrier, roster, exp_dir)
    run_rounds(server, exchange, local_evaluation(silos))
    if fed_config.secure_aggregation:
        forget_secrets(folder)
    return server


def count_silos(silos_dir: str | Path) -> int:
    """Return the number of folders ``silo0``, ``silo1`` ... in a folder.

    Raises:
        InputError: there is none, or a number is missing.
    """
    names = {path.name for path in Path(silos_dir).glob("silo*") if path.is_dir()}
    count = next(index for index in range(len(names) + 1) if f"silo{index}" not in names)
    if not names or count != len(names):
        raise InputError(
            f"{silos_dir}: must contain folders silo0, silo1 ..., contains {', '.join(sorted(names)) or 'none'}"
        )
    return count


def local_silos(silos_dir: str | Path, num_silos: int, exp_dir: str | Path, device: str = "cpu") -> list[Silo]:
    """Return the silos of a folder with ``silo0`` ...; their states are kept in ``exp_dir``."""
    names = [f"silo{index}" for index in range(num_silos)]
    return [Silo(i, Path(silos_dir) / name, Path(exp_dir) / "silos" / name, device) for i, name in enumerate(names)]


def local_exchange(silos: Sequence[Silo], keep: Keep = in_memory) -> Exchange:
    """Return the function for :func:`sase.federated.rounds.run_rounds` that runs these silos sequentially.

    Args:
        silos: all of them.
        keep: called with every reply on its arrival.
    """

    def exchange(instruction: Instruction) -> tuple[list[Reply], list[str]]:
        replies, failures = [], []
        for silo in [silo for silo in silos if instruction.asks(silo.index)]:
            try:
                reply = silo.run(instruction)
            except Exception as error:  # bad data, a full disk, out of memory: the other silos continue
                log.debug("silo %d", silo.index, exc_info=True)
                failures.append(f"silo {silo.index} failed: {one_line(error)}")
            else:
                replies.append(keep(reply))
            if len(silos) > len(instruction.silos or silos):
                silo.release()  # it may not take part again for long
        return replies, failures

    return exchange
