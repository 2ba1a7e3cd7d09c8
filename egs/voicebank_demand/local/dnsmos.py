#!/usr/bin/env python3
"""Score signals by DNSMOS P.835 (Reddy et al., ICASSP 2022): a network's estimate of a listener's opinion.

usage: dnsmos.py TABLE OUT

Writes OUT/DNSMOS_SIG, OUT/DNSMOS_BAK and OUT/DNSMOS_OVRL, tables ``utt value``, for the sound files, or the entries of
arks, in TABLE, such as wav.scp. Runs in the virtual environment of peers.py.
"""

import sys
from pathlib import Path

from peers import RATE, read_table
from speechmos import dnsmos

NAMES = {"DNSMOS_SIG": "sig_mos", "DNSMOS_BAK": "bak_mos", "DNSMOS_OVRL": "ovrl_mos"}


def score(table: Path, out: Path) -> None:
    """Write the scores of a table; see the top of the file."""
    scores = {utt: dnsmos.run(wav, RATE) for utt, wav in read_table(table)}
    out.mkdir(parents=True, exist_ok=True)
    for name, key in NAMES.items():
        lines = [f"{utt} {values[key]:.6f}\n" for utt, values in scores.items()]
        (out / name).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} TABLE OUT")
    score(Path(sys.argv[1]), Path(sys.argv[2]))
