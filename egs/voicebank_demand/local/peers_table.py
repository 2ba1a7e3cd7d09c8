#!/usr/bin/env python3
"""Print what systems score on a set as a table in Markdown: means with their 95 % bootstrap intervals.

usage: peers_table.py NOISY_SCORES PEER_FOLDER...

NOISY_SCORES and PEER_FOLDER/scoring hold a table ``utt value`` for each measure; PEER_FOLDER/peer.json is written by
peers.py.
"""

import json
import sys
from pathlib import Path

from sase.data.datadir import read_table
from sase.markdown import table
from sase.metrics.measures import MEASURES, measures_in
from sase.studies.evidence import bootstrap_interval

DECIMALS = {name: MEASURES[name].decimals for name in measures_in(MEASURES)}


def cell(folder: Path, name: str, decimals: int) -> str:
    """Return mean and interval of a measure; a dash if the folder does not have it."""
    path = folder / name
    values = [float(value) for value in read_table(path).values()] if path.is_file() else []
    known = [value for value in values if value == value]
    if not known:
        return "–"
    low, high = bootstrap_interval(known)
    return f"{sum(known) / len(known):.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def rows(noisy: Path, peers: list[Path]) -> list[list[str]]:
    """Return the rows of the table, in the order given."""
    result = [["unprocessed", *(cell(noisy, name, decimals) for name, decimals in DECIMALS.items()), "–", "–"]]
    for folder in peers:
        record = json.loads((folder / "peer.json").read_text(encoding="utf-8"))
        scores = [cell(folder / "scoring", name, decimals) for name, decimals in DECIMALS.items()]
        result.append([record["system"], *scores, f"{record['rtf']:.4f}", f"{record['delay_ms']:g}"])
    return result


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} NOISY_SCORES PEER_FOLDER...")
    header = ["system", *DECIMALS, "CPU seconds per second", "delay that was compensated (ms)"]
    print("\n".join(table(header, rows(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]), "lr")))
