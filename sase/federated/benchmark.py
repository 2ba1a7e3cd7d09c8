"""What federated training costs beside the training itself, from what an experiment told of its own times."""

from pathlib import Path

from sase.errors import InputError
from sase.federated.ledger import read_lines


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
    rounds = {entry["round"]: entry for entry in read_lines(path)}  # of a round that was done again, the last time
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


def _training(entry):
    """Return the seconds of a round in which at least one silo trained."""
    seconds, end = 0.0, 0.0
    for silo, began in sorted(entry["train_began"].items(), key=lambda item: item[1]):
        stopped = began + entry["train"][silo]
        seconds += max(0.0, stopped - max(began, end))
        end = max(end, stopped)
    return seconds
