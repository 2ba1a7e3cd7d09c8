"""The Flower ServerApp around :class:`sase.federated.server.Server`: the same in the simulation and for real silos."""

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Context, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from sase.allocator import return_large_blocks
from sase.atomic import write_text
from sase.config import from_mapping
from sase.errors import InputError, one_line
from sase.federated.exchange import Exchange, Instruction, Reply
from sase.federated.flower.app import SCORES_FILE
from sase.federated.flower.garbage import make_collections_cheap
from sase.federated.flower.messages import pack_instruction, unpack_reply, unpack_scores
from sase.federated.flower.progress import Status
from sase.federated.flower.secure import MESSAGE, pack_request, unpack_answer
from sase.federated.flower.silo_grid import RoundEnd, SiloGrid
from sase.federated.secure.identity import Roster
from sase.federated.secure.messages import KEYS, Answer, Request

if TYPE_CHECKING:
    from sase.federated.server import Server

FINISH = "query.finish"
_FINISH_TIMEOUT_S = 60.0

log = logging.getLogger(__name__)
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all remaining rounds; an error that users can fix is written to ``error.txt`` for the parent process."""
    settings = json.loads(Path(str(context.run_config["settings"])).read_text())
    handler = logging.FileHandler(Path(settings["exp_dir"]) / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("sase")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Flower's root handler would print every line a second time
    logger.addHandler(handler)
    try:
        with _only_server(Path(settings["home"])):
            _run(grid, settings)
    except (InputError, OSError) as error:
        write_text(Path(settings["home"]) / "error.txt", one_line(error, 1000) + "\n")
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def _only_server(home: Path) -> Iterator[None]:
    """Wait until the ServerApp of a failed run has exited, which may still be computing: both write one experiment."""
    with open(home / "server.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(grid: Grid, settings: dict[str, Any]) -> None:
    from sase.federated.requests import StoppedError
    from sase.federated.rounds import run_rounds
    from sase.federated.secure.local import kept
    from sase.federated.secure.rounds import secure_exchange

    return_large_blocks()
    server = _make_server(settings)
    make_collections_cheap()
    config = server.config
    status = Status(settings["home"])
    status.write("")
    silos = SiloGrid(grid, config.num_silos, settings["order"], settings["connect_s"], settings["poll_s"], status.write)

    def exchange(instruction: Instruction) -> tuple[list[Reply], list[str]]:
        silos.wait_for_silos(server.required_replies, instruction.silos)
        content, group_id = pack_instruction(instruction), str(instruction.round)
        end = None
        if config.grace_s:
            end = RoundEnd(config.needed_silos, config.grace_s, config.mode == "buffered", server.admits)
        timeout_s, asked = config.round_timeout_s, instruction.silos
        return silos.send_and_receive(content, MessageType.TRAIN, timeout_s, group_id, unpack, asked, end)

    def unpack(content: RecordDict) -> Reply:
        return server.spool.keep(unpack_reply(content))

    def carry(request: Request) -> tuple[list[Answer], list[str]]:
        number, asked = request.instruction.round, request.instruction.silos
        if request.phase == KEYS:
            silos.wait_for_silos(server.required_replies, asked)

        def read(content: RecordDict) -> Answer:
            return kept(unpack_answer(content), number, server.spool.keep)

        timeout_s = config.round_timeout_s
        return silos.send_and_receive(pack_request(request), MESSAGE, timeout_s, str(number), read, asked)

    def evaluate(instruction: Instruction) -> tuple[dict[int, dict[str, float]], list[str]]:
        silos.wait_for_silos(config.needed_silos)
        content, timeout_s = pack_instruction(instruction), config.round_timeout_s
        scores, failures = silos.send_and_receive(content, MessageType.EVALUATE, timeout_s, "test", unpack_scores)
        return {reply.silo: reply.values for reply in scores if reply.values}, failures

    if not server.finished:
        (server.exp_dir / SCORES_FILE).unlink(missing_ok=True)  # of a training that is extended
    run: Exchange = exchange
    if config.secure_aggregation:
        run = secure_exchange(carry, Roster.load(settings["roster"]), server.exp_dir)
    try:
        run_rounds(server, run, evaluate)
    except StoppedError:  # the silos are not to exit; the parent process reports it
        return
    if config.norm == "local" and not (server.exp_dir / SCORES_FILE).exists():
        _score_personal_norms(server, silos)
    if not settings["simulated"]:
        content = RecordDict({"config": ConfigRecord({"experiment": str(settings["exp_dir"])})})
        silos.announce(content, FINISH, _FINISH_TIMEOUT_S, "finish")


def _make_server(settings: dict[str, Any]) -> "Server":
    import torch

    from sase.federated.audit import Signer
    from sase.federated.config import FederatedConfig
    from sase.federated.server import Server
    from sase.training.config import TrainConfig

    torch.set_num_threads(settings["server_threads"])
    train = from_mapping(TrainConfig, settings["train"])
    federated = from_mapping(FederatedConfig, settings["federated"])
    server = Server(train, federated, settings["dev_set"], settings["exp_dir"], settings["device"])
    if settings.get("credentials"):
        server.audit.signer = Signer.read(settings["credentials"])
    return server


def _score_personal_norms(server: "Server", silos: "SiloGrid") -> None:
    """Have every silo score the best model on its own test set with its personal norms; write the scores."""
    silos.wait_for_silos(server.config.num_silos)
    content, timeout_s = pack_instruction(server.best_instruction()), server.config.round_timeout_s
    scores, failures = silos.send_and_receive(content, MessageType.EVALUATE, timeout_s, "test", unpack_scores)
    for failure in failures:
        log.warning("test of the personal norms: %s", failure)
    scores.sort(key=lambda reply: reply.silo)
    text = json.dumps({str(reply.silo): reply.values for reply in scores}, indent=1)
    write_text(server.exp_dir / SCORES_FILE, text + "\n")
