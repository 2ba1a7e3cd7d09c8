"""What federated training costs beside the training itself: time, as an experiment told it, and bytes."""

from pathlib import Path

from sase.errors import InputError
from sase.federated.config import PAYLOADS
from sase.federated.layout import layout_of, to_arrays
from sase.federated.payload import encode, num_bytes
from sase.jsonfile import read_jsonl
from sase.model import PRESETS, build_model


def outside_training(exp_dir):
    """Return where the time of a federated training went.

    Local training is any time in which some silo took training steps, by the silos' own clocks, which must be those of
    one machine. All else is outside: starting and waiting for silos, loading, transfers, aggregation, scoring, files.

    Args:
        exp_dir: the experiment's folder, with ``round_timing.jsonl``.

    Returns:
        One row for a table: rounds, seconds in all and of local training, and in percent of all seconds: outside
        training, and of it the server's aggregation (with what the strategy ``sase`` judges) and its scoring.

    Raises:
        InputError: no such times.
    """
    path = Path(exp_dir) / "round_timing.jsonl"
    rounds = {entry["round"]: entry for entry in read_jsonl(path)}  # of a round that was done again, the last time
    if not rounds:
        raise InputError(f"{path}: tells of no round; give the folder of a federated training")
    entries = list(rounds.values())
    total, train = sum(entry["seconds"] for entry in entries), sum(map(_training, entries))

    def percent(seconds):
        return 100.0 * seconds / total

    return {
        "rounds": len(entries),
        "s": total,
        "local training s": train,
        "s a round": total / len(entries),
        "outside training %": percent(total - train),
        "aggregation %": percent(sum(entry["aggregate"] for entry in entries)),
        "scoring %": percent(sum(entry["score_and_save"] for entry in entries)),
    }


def upload_bytes():
    """Return what one silo uploads in one round: a row for each preset, with the bytes by ``payload``.

    SCAFFOLD, which sends control variates as well, needs about twice as many.
    """
    return [{"preset": preset, **_upload_bytes(preset)} for preset in PRESETS]


def _upload_bytes(preset):
    model = build_model(preset)
    layout = layout_of(model)
    arrays = to_arrays(model, layout.names)
    uploads = {payload: encode(payload, arrays, arrays, set(layout.weights)) for payload in PAYLOADS}
    return {f"{payload} bytes": num_bytes(upload) for payload, upload in uploads.items()}


def _training(entry):
    """Return the seconds of a round in which at least one silo trained."""
    seconds, end = 0.0, 0.0
    for silo, began in sorted(entry["train_began"].items(), key=lambda item: item[1]):
        stopped = began + entry["train"][silo]
        seconds += max(0.0, stopped - max(began, end))
        end = max(end, stopped)
    return seconds
