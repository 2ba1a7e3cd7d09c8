"""The engine ``inproc``: all silos one after the other in this process, without flwr."""

import logging
from pathlib import Path

from sase.errors import InputError
from sase.federated.server import Server, run_rounds
from sase.federated.silo import Silo

log = logging.getLogger(__name__)


def run(train_config, fed_config, silos_dir, dev_set, exp_dir, device="cpu", options=None):
    """Train in this process; return the :class:`sase.federated.server.Server`. Arguments as :mod:`sase.federated` says.

    Raises:
        InputError: as :func:`sase.federated.server.run_rounds`; or for what this engine does not have.
    """
    if options:
        raise InputError(f"--engine inproc knows no option {next(iter(options))}")
    if fed_config.dp_clip_norm:
        raise InputError("dp_clip_norm: clipping and noise are Flower's, use --engine simulation or deployment")
    if silos_dir is None:
        raise InputError("--engine inproc needs --silos")
    server = Server(train_config, fed_config, dev_set, exp_dir, device)
    run_rounds(server, exchange_with(local_silos(silos_dir, fed_config.num_silos, exp_dir, device)))
    return server


def count_silos(silos_dir):
    """Return how many ``silo0``, ``silo1`` ... a folder holds.

    Raises:
        InputError: none, or a gap between them.
    """
    names = {path.name for path in Path(silos_dir).glob("silo*") if path.is_dir()}
    count = next(index for index in range(len(names) + 1) if f"silo{index}" not in names)
    if not names or count != len(names):
        raise InputError(f"{silos_dir}: wants folders silo0, silo1 ..., holds {', '.join(sorted(names)) or 'none'}")
    return count


def local_silos(silos_dir, num_silos, exp_dir, device="cpu"):
    """Return each :class:`sase.federated.silo.Silo` of a folder with ``silo0`` ...; their states lie in ``exp_dir``."""
    names = [f"silo{index}" for index in range(num_silos)]
    return [Silo(i, Path(silos_dir) / name, Path(exp_dir) / "silos" / name, device) for i, name in enumerate(names)]


def exchange_with(silos):
    """Return the function with which :func:`sase.federated.server.run_rounds` asks these silos, one after the other."""

    def exchange(instruction):
        replies, failures = [], []
        for silo in silos:
            try:
                replies.append(silo.run(instruction))
            except (ValueError, RuntimeError, OSError) as error:  # bad data, a full disk, no memory: the others go on
                log.debug("silo %d", silo.index, exc_info=True)
                failures.append(f"silo {silo.index} failed: {' '.join(str(error).split())[:300]}")
        return replies, failures

    return exchange
