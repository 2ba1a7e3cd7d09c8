"""What an ablation shows on its page: two scored sets, the cost of networks, training time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sase.bench.stages import machine
from sase.profiling import with_unit
from sase.studies import page
from sase.studies.ablation import UNPROCESSED, Ablation, Sets, labels, require_same_data, results, unprocessed
from sase.studies.grid import Results
from sase.studies.scores import MEASURES, Scores, mean

_NOTES = """Scores are of the weights after the last step: all rows trained for as many steps, and neither set
selected anything, so a difference on one set should be confirmed on the other. RTF: CPU seconds on one thread to
enhance a second of sound, the best of all runs."""


def write_page(ablation: Ablation, sets: Sets, out: str | Path, log: Callable[[str], object] = print) -> None:
    """Write ``RESULTS.md``, ``images/`` and ``summary.json`` of all finished runs.

    Args:
        ablation: a :class:`sase.studies.ablation.Ablation`.
        sets: a :class:`sase.studies.ablation.Sets`.
        out: the study's folder.
        log: called with the path of the page.

    Raises:
        InputError: results of another config or of other data.
    """
    require_same_data(ablation, sets, out)
    done = {row: seeds for row, seeds in results(ablation, sets, out).items() if seeds}
    summary = summarise(ablation, done, unprocessed(ablation, sets, out), labels(sets))
    page.write(Path(out), page_spec(ablation, summary), summary, [f"Measured on {summary['machine']}."])
    counts = f"{sum(map(len, done.values()))} of {len(ablation.rows) * len(ablation.seeds)}"
    log(f"{Path(out) / 'RESULTS.md'}: {counts} trainings are in it")


def summarise(
    ablation: Ablation, done: Results, noisy: Mapping[str, Scores], labels_of_sets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the summary of an ablation, as :mod:`sase.studies.page` takes it.

    Args:
        ablation: a :class:`sase.studies.ablation.Ablation`.
        done: row to seed to result.
        noisy: {set: scores} of the unprocessed input.
        labels_of_sets: {set: labels}, from :func:`sase.studies.ablation.labels`.
    """

    def scores(row: str, name: str) -> dict[int, Scores]:
        return {seed: run["scores"][name] for seed, run in done[row].items()}

    rows = {}
    for row, seeds in done.items():
        runs = list(seeds.values())
        rows[row] = {
            "table": ablation.rows[row].table,
            "against": ablation.rows[row].against,
            "seeds": list(seeds),
            "parameters": runs[0]["parameters"],
            "macs_per_s": runs[0]["macs_per_s"],
            "rtf": min(run["rtf"]["processor"] for run in runs),
            "training_s": statistics.fmean(run["seconds_here"]["training"] for run in runs),
            "means": {
                name: {m: [mean(table.values(), m) for table in scores(row, name).values()] for m in MEASURES}
                for name in noisy
            },
        }
        against = ablation.rows[row].against
        if against in done:
            rows[row]["differences"] = {
                name: page.set_differences(
                    scores(row, name), scores(against, name), page.group_kinds(labels_of_sets[name])
                )
                for name in noisy
            }
    return {
        "rows": rows,
        UNPROCESSED: {name: {m: mean(table.values(), m) for m in MEASURES} for name, table in noisy.items()},
        "utterances": {name: len(table) for name, table in noisy.items()},
        "machine": machine(),
    }


def page_spec(ablation: Ablation, summary: Mapping[str, Any]) -> page.PageSpec:
    """Return the :class:`sase.studies.page.PageSpec` of an ablation."""
    return page.PageSpec(
        title="What each part is worth",
        notes=_NOTES,
        seeds=ablation.seeds,
        baselines={name: {UNPROCESSED: means} for name, means in summary[UNPROCESSED].items()},
        columns={
            "parameters": lambda row: with_unit(row["parameters"]),
            "MAC/s": lambda row: with_unit(row["macs_per_s"]),
            "RTF": lambda row: f"{row['rtf']:.4f}",
            "training (min)": lambda row: f"{row['training_s'] / 60:.1f}",
        },
        image_prefix="ablation",
    )
