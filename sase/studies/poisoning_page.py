"""The page of a study of poisoned silos: a table for each federation, and one of honest silos over seeds."""

from __future__ import annotations

import numpy as np

from sase.atomic import write_text
from sase.markdown import table
from sase.studies.grid import Results
from sase.studies.poisoning import HONEST, Folders, Poisoning, attacks, require_same_data, results_of


def write_page(plan: Poisoning, folders: Folders) -> None:
    """Write ``RESULTS.md`` of the finished runs; raise InputError for results of another config or of other data."""
    require_same_data(plan, folders)
    write_text(folders.out / "RESULTS.md", "\n".join(page(plan, folders)) + "\n")


def page(plan: Poisoning, folders: Folders) -> list[str]:
    """Return the tables as lines."""
    lines = []
    for federation, of in plan.federations.items():
        found = results_of(plan, folders, federation)
        lines += [
            f"### {federation}",
            "",
            "Development SI-SNR (dB): lowest / last round.",
            "",
        ]
        header = ["attack", "replies", *plan.rows]
        rows = [
            [attack, _replies(found, plan, attack), *(_last(found, row, plan.seeds[0], attack) for row in plan.rows)]
            for attack in attacks(of)
        ]
        lines += [*table(header, rows, "llr"), ""]
        lines += [_over_seeds(found, plan, row) for row in plan.more_seeds[1:]] + [""]
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
    return "failed" if outcome["failure"] else f"{min(outcome['dev_SI_SNR']):.2f} / {outcome['dev_SI_SNR'][-1]:.2f}"


def _over_seeds(found: Results, plan: Poisoning, row: str) -> str:
    """Return a sentence about honest silos: how much better a row is than the first of those with further seeds."""
    first = plan.more_seeds[0]
    gains = [_honest(found, row, seed) - _honest(found, first, seed) for seed in plan.seeds]
    gains = [gain for gain in gains if np.isfinite(gain)]
    listed = ", ".join(f"{gain:+.3f}" for gain in gains) or "not finished"
    return f"Honest silos, `{row}` minus `{first}`, one value per seed (dB): {listed}."


def _honest(found: Results, row: str, seed: int) -> float:
    outcome = found[row].get(seed, {}).get("attacks", {}).get(HONEST)
    return outcome["dev_SI_SNR"][-1] if outcome and not outcome["failure"] else float("nan")
