"""All rounds of a federation, with an engine that carries instructions and replies."""

from __future__ import annotations

import logging
import time

from sase.errors import InputError
from sase.federated.exchange import Exchange
from sase.federated.requests import obey
from sase.federated.server import Server
from sase.federated.silo_tests import Evaluate, test_at_silos

log = logging.getLogger(__name__)


def run_rounds(server: Server, exchange: Exchange, evaluate: Evaluate | None = None) -> None:
    """Run all remaining rounds.

    Args:
        server: with the state after the last completed round.
        exchange: called with an instruction; returns the replies and a line for each silo that failed, within
            ``round_timeout_s``.
        evaluate: for the tests that ``evaluate_every`` asks for; None if the engine has none.

    Raises:
        StoppedError: the operator asked for it, after a completed round.
        InputError: a round failed in all of its ``1 + max_repeats`` attempts. The last valid model is kept.
    """
    try:
        _run_rounds(server, exchange, evaluate)
    finally:
        server.spool.clear()


def _run_rounds(server: Server, exchange: Exchange, evaluate: Evaluate | None) -> None:
    config = server.config
    test_at_silos(server, evaluate)
    while not server.finished:
        obey(server.exp_dir, len(server.history), config.num_rounds)
        number = server.next_round
        for attempt in range(config.max_repeats + 1):
            if attempt:
                log.warning("retrying round %d (%d of %d)", number, attempt, config.max_repeats)
                time.sleep(config.repeat_wait_s)
            try:
                instruction = server.instruction()
                replies, failures = ([], []) if instruction.silos == () else exchange(instruction)
            except (KeyboardInterrupt, SystemExit):
                log.info("interrupted in round %d, which will be repeated; run the same command to resume", number)
                raise
            if server.finish_round(replies, failures):
                break
        else:
            needed = f"fewer than {server.required_replies} valid replies"
            kept = f"the model of round {number - 1} is kept" if number > 1 else "there is no model yet"
            raise InputError(
                f"round {number} failed {config.max_repeats + 1} times: {needed} ({server.last_failure}); {kept}; "
                "run the same command to resume"
            )
        test_at_silos(server, evaluate)
