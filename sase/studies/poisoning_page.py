"""The page of a study of poisoned silos: a table for each federation, and one of honest silos over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sase.atomic import write_text
from sase.markdown import table
from sase.studies.grid import Results
from sase.studies.poisoning import ATTACKS, HONEST, Folders, Poisoning, results_of


def write_page(plan: Poisoning, folders: Folders) -> None:
    """Write ``RESULTS.md`` of the finished runs."""
    write_text(folders.out / "RESULTS.md", "\n".join(page(plan, folders)) + "\n")


def page(plan: Poisoning, folders: Folders) -> list[str]:
    """Return the tables as lines."""
    lines = []
    for federation, of in plan.federations.items():
        found = results_of(plan, folders, federation)
        lines += [f"### {federation}", "", f"Poisoned: {of.poisoned}. Development SI-SNR (dB) of the last round.", ""]
        header = ["attack", "replies", *plan.rows]
        rows = [
            [attack, _replies(found, plan, attack), *(_last(found, row, plan.seeds[0], attack) for row in plan.rows)]
            for attack in ATTACKS
        ]
        lines += [*table(header, rows, "llr"), ""]
        lines += [f"Honest silos, seeds {', '.join(map(str, plan.seeds))}: difference from the first column.", ""]
        lines += [*table(["", *plan.rows], [["dB", *_differences(found, plan)]], "lr"), ""]
    return lines


def _replies(found: Results, plan: Poisoning, attack: str) -> str:
    """Return whether the server refused the attacking replies on arrival, without roll-back."""
    first = next(iter(plan.rows))
    outcome = found[first].get(plan.seeds[0], {}).get("attacks", {}).get(attack)
    if attack == HONEST or not outcome:
        return ""
    return "refused" if outcome["refused"] and all(outcome["refused"]) else "admitted"


def _last(found: Results, row: str, seed: int, attack: str) -> str:
    outcome = found[row].get(seed, {}).get("attacks", {}).get(attack)
    if not outcome:
        return "—"
    return "failed" if outcome["failure"] else f"{outcome['dev_SI_SNR'][-1]:.2f}"


def _differences(found: Results, plan: Poisoning) -> Sequence[str]:
    first = next(iter(plan.rows))
    cells = []
    for row in plan.rows:
        values = [_honest(found, row, seed) - _honest(found, first, seed) for seed in plan.seeds]
        values = [value for value in values if np.isfinite(value)]
        cells.append(f"{np.mean(values):+.2f} ± {np.std(values):.2f}" if values else "—")
    return cells


def _honest(found: Results, row: str, seed: int) -> float:
    outcome = found[row].get(seed, {}).get("attacks", {}).get(HONEST)
    return outcome["dev_SI_SNR"][-1] if outcome and not outcome["failure"] else float("nan")
