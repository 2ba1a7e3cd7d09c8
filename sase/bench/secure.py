"""What secure aggregation costs a silo and the server beside training: CPU time, bytes and precision."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sase.allocator import keep_freed_memory
from sase.federated.config import FederatedConfig
from sase.federated.layout import layout_of, to_arrays
from sase.federated.payload import num_bytes
from sase.federated.secure.identity import canonical
from sase.federated.secure.local import KEY_FILE, ROSTER, make_local_keys
from sase.federated.secure.server import SecureSum
from sase.federated.secure.session import Session, Terms, Weights, model_fingerprint
from sase.federated.secure.silo import SecureSilo
from sase.federated.secure.update import LOSSES, Format
from sase.model import build_model

_CHANGE = 1e-2  # of a weight in the measured round
_EXAMPLES = 100


def bench_secure(presets: Sequence[str], silos: Sequence[int], dropped: int = 1) -> list[dict[str, Any]]:
    """Return a row per network and number of silos, of which some drop out after they were to be in the sum.

    Args:
        presets: networks.
        silos: numbers of silos.
        dropped: how many drop out; fewer where the threshold does not allow it.
    """
    keep_freed_memory()  # as a silo does
    rounds = [[_measure(preset, count, dropped) for _ in range(2)] for preset in presets for count in silos]
    return [second for _, second in rounds]  # a silo's process has memory from training, the first round not


def _measure(preset: str, count: int, dropped: int) -> dict[str, Any]:
    model = build_model(preset)
    layout = layout_of(model)
    reference = to_arrays(model, layout.names)
    number = Format(reference, layout, FederatedConfig().secure_range, count)
    generator = np.random.default_rng(0)
    updates = [_CHANGE * generator.standard_normal(number.sizes["weights"]) for _ in range(count)]
    changes = [dict(zip(layout.weights, _split(update, reference, layout.weights))) for update in updates]
    trained = [{**reference, **{name: reference[name] + own[name] for name in own}} for own in changes]
    terms = Terms("bench", 1, model_fingerprint(reference), "")
    times = dict.fromkeys([*range(count), "server"], 0.0)
    sent = dict.fromkeys(range(count), 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roster = make_local_keys(folder, count)
        parties = [
            SecureSilo.load(k, folder / f"silo{k}" / KEY_FILE, folder / ROSTER, folder / f"{k}") for k in range(count)
        ]
        whole = SecureSum(terms, roster, 3)

        def timed(who: Any, function: Callable[[], Any]) -> Any:
            started = time.process_time()
            result = function()
            times[who] += time.process_time() - started
            return result

        def ask(asked: Sequence[int], function: Callable[[SecureSilo], Any]) -> dict[int, Any]:
            answers = {k: timed(k, lambda: function(parties[k])) for k in asked}  # noqa: B023 (called at once)
            for k, answer in answers.items():
                sent[k] += len(canonical(answer))
            return answers

        announcements = ask(range(count), lambda party: party.keys(terms, _EXAMPLES))
        session: Session = timed("server", lambda: whole.settle(announcements))
        listed = list(whole.announcements.values())
        shares = ask(range(count), lambda party: party.shares(listed))
        timed("server", lambda: whole.collect_shares(shares))
        survivors = list(range(max(session.threshold, count - dropped)))
        given = {str(silo): of for silo, of in whole.shares.items()}

        def masked(silo: int) -> dict[str, np.ndarray]:
            def encode(session: Session, silos: list[int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
                weights = Weights.settle(session, silos, FederatedConfig(), 1)
                update = number.update(trained[silo], dict.fromkeys(LOSSES, 0.0))
                return number.encode(update, weights.alphas[silo], weights.shares[silo]), {}

            return parties[silo].masked(terms, given, encode)

        vectors = {k: timed(k, lambda: masked(k)) for k in survivors}  # noqa: B023 (called at once)
        for k, arrays in vectors.items():
            sent[k] += num_bytes(arrays)
        closed = whole.close(vectors)
        signatures = timed("server", lambda: whole.signatures(ask(survivors, lambda party: party.agree(closed))))
        revealed = ask(survivors, lambda party: party.unmask(signatures))
        totals = timed("server", lambda: whole.total(vectors, revealed, list(number.sizes)))
    mean = number.decode(totals, count / len(survivors), count / len(survivors)).weights
    expected = np.mean([updates[k] for k in survivors], axis=0)
    return {
        "network": preset,
        "silos": count,
        "dropped": count - len(survivors),
        "CPU s a silo": round(max(times[k] for k in survivors), 3),
        "CPU s server": round(times["server"], 3),
        "MB up a silo": round(max(sent.values()) / 1e6, 3),
        "MB as float32": round(num_bytes(reference) / 1e6, 3),
        "relative error": f"{np.linalg.norm(mean - expected) / np.linalg.norm(expected):.1e}",
    }


def _split(vector: np.ndarray, reference: dict[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    ends = np.cumsum([reference[name].size for name in names])[:-1]
    return [part.reshape(reference[name].shape).astype(np.float32) for name, part in zip(names, np.split(vector, ends))]
