"""Tests of the global model by each silo on its own test set, every few rounds: ``silo_tests.jsonl``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sase import jsonfile
from sase.errors import one_line
from sase.federated.exchange import Instruction

if TYPE_CHECKING:
    from sase.federated.server import Server
    from sase.federated.silo import Silo

FILE = "silo_tests.jsonl"  # in the experiment folder, one line per tested round
_DECIMALS = 4

log = logging.getLogger(__name__)

# Sends a model to all silos; returns the scores of each, and for each that failed, which one and why.
Evaluate = Callable[[Instruction], tuple[Mapping[int, Mapping[str, float]], Sequence[str]]]


def test_at_silos(server: Server, evaluate: Evaluate | None) -> None:
    """Have the silos test the global model if ``evaluate_every`` says so, and append their scores to a file.

    Nothing of the training depends on it. A silo that does not reply is named in the file and the log. Interrupted, it
    is done when the training resumes.

    Args:
        server: after a completed round, or before the first.
        evaluate: of the engine; None if it cannot.
    """
    number, every = len(server.history), server.config.evaluate_every
    if evaluate is None or not every or not number or (number % every and not server.finished):
        return
    path = server.exp_dir / FILE
    if any(entry["round"] == number for entry in jsonfile.read_jsonl(path)):
        return
    scores, failures = evaluate(server.model_instruction())
    for failure in failures:
        log.warning("test of round %d: %s", number, one_line(failure))
    rounded = {
        str(silo): {name: round(float(x), _DECIMALS) for name, x in scores[silo].items()} for silo in sorted(scores)
    }
    entry = {"round": number, "silos": rounded, "failed": list(map(one_line, failures))}
    jsonfile.append_jsonl(path, entry)


def scores_of(silo: Silo, instruction: Instruction) -> dict[str, float]:
    """Return a silo's scores of a model: ``global/MEASURE``, and with personal norms ``own/MEASURE`` too.

    Nothing if the silo has no test set.
    """
    if not (silo.data_dir / "tt").is_dir():
        return {}
    personal = [False, True] if instruction.config["federated"]["norm"] == "local" else [False]
    scores: dict[str, float] = {}
    for own in personal:
        kind = "own" if own else "global"
        scores |= {f"{kind}/{name}": value for name, value in silo.evaluate(instruction, own).items()}
    return scores


def local_evaluation(silos: Sequence[Silo]) -> Evaluate:
    """Return the function for :func:`test_at_silos` that has these silos test sequentially in this process."""

    def evaluate(instruction: Instruction) -> tuple[dict[int, dict[str, float]], list[str]]:
        scores, failures = {}, []
        for silo in silos:
            try:
                scores[silo.index] = scores_of(silo, instruction)
            except Exception as error:  # as in a round, the other silos continue
                log.debug("silo %d", silo.index, exc_info=True)
                failures.append(f"silo {silo.index} failed: {one_line(error)}")
        return {silo: of for silo, of in scores.items() if of}, failures

    return evaluate
