"""Overhead of federated training: time outside local training, and bytes per upload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sase.errors import InputError
from sase.federated.config import PAYLOADS
from sase.federated.layout import layout_of, to_arrays
from sase.federated.payload import encode, num_bytes
from sase.jsonfile import read_jsonl
from sase.model import PRESETS, build_model


def outside_training(exp_dir: str | Path) -> dict[str, float]:
    """Return how the time of a federated training was spent.

    Local training is any time in which at least one silo took training steps, by the silos' clocks, which must be those
    of one machine. The rest is overhead: starting and waiting for silos, loading, transfers, aggregation, scoring.

    Args:
        exp_dir: the experiment's folder, with ``round_timing.jsonl``.

    Returns:
        One row for a table: rounds, total seconds, seconds of local training, and in percent of the total: time outside
        training, and therein the server's aggregation (including the evaluations of the strategy ``sase``) and scoring.

    Raises:
        InputError: no timing found.
    """
    path = Path(exp_dir) / "round_timing.jsonl"
    rounds = {entry["round"]: entry for entry in read_jsonl(path)}  # of a repeated round, the last
    if not rounds:
        raise InputError(f"{path}: no rounds found; give the folder of a federated training")
    entries = list(rounds.values())
    total, train = sum(entry["seconds"] for entry in entries), sum(map(training_seconds, entries))

    def percent(seconds: float) -> float:
        return 100.0 * seconds / total

    return {
        "rounds": len(entries),
        "s": total,
        "local training s": train,
        "s per round": total / len(entries),
        "outside training %": percent(total - train),
        "aggregation %": percent(sum(entry["aggregate"] for entry in entries)),
        "scoring %": percent(sum(entry["score_and_save"] for entry in entries)),
    }


def upload_bytes() -> list[dict[str, Any]]:
    """Return the bytes that one silo uploads per round: a row for each preset, a column for each ``payload``.

    SCAFFOLD also sends control variates and needs about twice as many.
    """
    return [{"preset": preset, **_upload_bytes(preset)} for preset in PRESETS]


def _upload_bytes(preset: str) -> dict[str, int]:
    model = build_model(preset)
    layout = layout_of(model)
    arrays = to_arrays(model, layout.names)
    uploads = {payload: encode(payload, arrays, arrays, set(layout.weights)) for payload in PAYLOADS}
    return {f"{payload} bytes": num_bytes(upload) for payload, upload in uploads.items()}


def training_seconds(entry: Mapping[str, Any]) -> float:
    """Return the seconds of a round in which at least one silo trained."""
    seconds, end = 0.0, 0.0
    for silo, started in sorted(entry["train_began"].items(), key=lambda item: item[1]):
        stopped = started + entry["train"][silo]
        seconds += max(0.0, stopped - max(started, end))
        end = max(end, stopped)
    return seconds
