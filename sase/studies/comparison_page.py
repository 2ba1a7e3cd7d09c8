"""What a comparison shows on its page: worst silo, gap closed, bytes, wall time, and curves over rounds."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sase.jsonfile import read_jsonl
from sase.studies import page
from sase.studies.comparison import (
    KINDS,
    MEASURES,
    Comparison,
    Folders,
    count_test_utterances,
    labels,
    read_results,
    require_same_data,
)
from sase.studies.evidence import difference_of_means, worst_group_difference
from sase.studies.figures import draw_gap, draw_rounds, draw_weights
from sase.studies.grid import Result, Results
from sase.studies.scores import DECIMALS, TITLES

WORST = "worst_SI_SDR"
_TABLE = "training"
_NOTES = """Scores are of the best round by the server's development set, on the common test set. "Worst silo" is the
lowest mean over the silos' parts of the test set (for silos alone: each silo's own model on its own part); its
utterances are resampled within the parts. "Gap closed" is the share of the SI_SDR gap between the mean silo alone and
central training that a row closes. "Sent" is the traffic of all silos in all rounds; wall time is that of all rounds,
with silos trained sequentially on one thread."""
_AGAINST = {"federated": "federated", "central": "alone"}  # kind to that of the row it is compared with

Seeds = Mapping[int, Result]


def write_page(
    comparison: Comparison,
    folders: Folders,
    before: Mapping[str, Mapping[str, float]],
    log: Callable[[str], object] = print,
) -> None:
    """Write ``RESULTS.md``, ``images/`` and ``summary.json`` of all finished runs.

    Args:
        comparison: a :class:`sase.studies.comparison.Comparison`.
        folders: a :class:`sase.studies.comparison.Folders`.
        before: title to mean scores before training, from :func:`sase.studies.comparison.before_training`.
        log: called with the path of the page.

    Raises:
        InputError: results of other data.
    """
    require_same_data(comparison, folders)
    results = {row: seeds for row, seeds in read_results(comparison, folders).items() if seeds}
    count = count_test_utterances(comparison, folders)
    summary = summarise(comparison, results, labels(comparison, folders), count)
    appendix, images = [], folders.out / "images"
    if results:
        draw_rounds(_curves(comparison, folders, results), images / "rounds.png")
        appendix += ["![development scores over rounds](images/rounds.png)", ""]
    if points := _points(summary["rows"]):
        draw_gap(points, images / "gap.png")
        appendix += ["![gap closed over rounds and over bytes](images/gap.png)", ""]
    if weights := _weights(comparison, folders, results):
        draw_weights(weights, images / "alphas.png")
        appendix += ["![weights of the silos over rounds](images/alphas.png)", ""]
    page.write(folders.out, page_spec(comparison, summary, before), summary, appendix)
    log(
        f"{folders.out / 'RESULTS.md'}: {sum(map(len, results.values()))} of "
        f"{len(comparison.rows) * len(comparison.seeds)} trainings are in it"
    )


def summarise(
    comparison: Comparison, results: Results, labels_of_set: Mapping[str, Mapping[str, Any]], utterances: int
) -> dict[str, Any]:
    """Return the summary of a comparison, as :mod:`sase.studies.page` takes it.

    Central training is compared with silos alone, every federated row with the first one.

    Args:
        comparison: a :class:`sase.studies.comparison.Comparison`.
        results: row to seed to result.
        labels_of_set: of the scored utterances, from :func:`sase.studies.comparison.labels`.
        utterances: number of them.
    """
    kinds, rows = page.group_kinds(labels_of_set), {}
    reference = {kind: next((row for row in results if comparison.rows[row].kind == kind), None) for kind in KINDS}
    closed = _gap_closed(comparison, results)
    for name, seeds in results.items():
        kind = comparison.rows[name].kind
        against = reference.get(_AGAINST.get(kind, ""))
        entry: dict[str, Any] = {
            "table": _TABLE,
            "kind": kind,
            "against": against if against != name else None,
            "seeds": list(seeds),
            "means": {"test": _means([result["common"] for result in seeds.values()], map(worst, seeds.values()))},
            "gap_closed": closed.get(name),
            "rounds": statistics.fmean(result["trained"][0]["rounds"] for result in seeds.values()),
            "seconds": [sum(training["seconds"] for training in result["trained"]) for result in seeds.values()],
            **{
                way: statistics.fmean(sum(t[way] for t in result["trained"]) for result in seeds.values())
                for way in ("bytes_up", "bytes_down")
            },
        }
        if entry["against"]:
            entry["differences"] = {"test": _differences(seeds, results[entry["against"]], kinds)}
        rows[name] = entry
        if all("own" in result for result in seeds.values()):
            own = [list(result["own"].values()) for result in seeds.values()]
            rows[f"{name}, each part with its silo's own norms"] = {
                "table": _TABLE,
                "kind": "own norms",
                "against": None,
                "seeds": list(seeds),
                "means": {"test": _means(map(_over_parts, own), [min(p["SI_SDR"] for p in parts) for parts in own])},
            }
    return {"rows": rows, "utterances": {"test": utterances}, "without_scores": _without_scores(results)}


def page_spec(
    comparison: Comparison, summary: Mapping[str, Any], before: Mapping[str, Mapping[str, float]]
) -> page.PageSpec:
    """Return the :class:`sase.studies.page.PageSpec` of a comparison."""
    notes = _NOTES
    if runs := summary["without_scores"]:
        notes += (
            f"\n\nNo intervals: {len(runs)} results of an earlier version lack scores per utterance ({runs[0]} ...); "
            "delete their result.json and run the same command: they are scored again, not trained again."
        )
    return page.PageSpec(
        title="Ways of training in silos",
        notes=notes,
        seeds=comparison.seeds,
        measures={**{name: TITLES[name] for name in MEASURES}, WORST: "worst silo's SI_SDR (dB)"},
        decimals={**DECIMALS, WORST: DECIMALS["SI_SDR"]},
        baselines={"test": before},
        columns={
            "gap closed": lambda row: "" if row.get("gap_closed") is None else f"{row['gap_closed']:.0%}",
            "rounds": lambda row: f"{row['rounds']:.0f}" if row["kind"] == "federated" else "",
            "sent up, down (MB)": _sent,
            "wall time (s)": lambda row: page.mean_std(row["seconds"], 0) if "seconds" in row else "",
        },
        image_prefix="comparison",
        lead=_lead(summary["rows"]),
    )


def worst(result: Result) -> float:
    """Return the SI_SDR of the silo with the lowest mean on its part of the test set; NaN without parts."""
    return min((part["SI_SDR"] for part in result["parts"].values() if part), default=math.nan)


def _means(common: Any, lowest: Any) -> dict[str, list[float]]:
    rows = list(common)
    found = {name: [row[name] for row in rows] for name in MEASURES if all(name in row for row in rows)}
    return {**found, WORST: list(lowest)}


def _over_parts(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    counts = [part["utterances"] for part in parts]
    return {name: float(np.average([part[name] for part in parts], weights=counts)) for name in MEASURES}


def _differences(first: Seeds, second: Seeds, kinds: Mapping[str, Mapping[str, list[str]]]) -> dict[str, Any]:
    """Return the differences of two rows; of means alone where a result lacks scores per utterance."""
    systems = first, second
    if not all("part_scores" in result for system in systems for result in system.values()):
        found = {}
        for name in (*MEASURES, WORST):
            means = [
                {s: worst(r) if name == WORST else r["common"][name] for s, r in system.items()}
                for system in systems
                if name == WORST or all(name in r["common"] for r in system.values())
            ]
            if len(means) == 2 and means[0].keys() & means[1].keys():
                found[name] = page.difference_entry(difference_of_means(*means))
        return {"all": found}
    scores = [{seed: result["scores"]["test"] for seed, result in system.items()} for system in systems]
    found = page.set_differences(scores[0], scores[1], kinds, MEASURES)
    ratios = [
        {
            seed: {
                silo: {utt: row["SI_SDR"] for utt, row in part.items()}
                for silo, part in result["part_scores"].items()
                if part
            }
            for seed, result in system.items()
        }
        for system in systems
    ]
    with contextlib.suppress(ValueError):  # no seed in common yet, or no silo has a part of the test set
        found["all"][WORST] = page.difference_entry(worst_group_difference(ratios[0], ratios[1]))
    parts = [{seed: result["part_scores"] for seed, result in system.items()} for system in systems]
    silos = sorted({silo for system in parts for result in system.values() for silo in result})
    by_silo = {}
    for silo in silos:
        first_part, second_part = ({s: r.get(silo, {}) for s, r in system.items()} for system in parts)
        by_silo[silo] = page.set_differences(first_part, second_part, {}, MEASURES)["all"]
    return {**found, "silo": by_silo}


def _gap_closed(comparison: Comparison, results: Results) -> dict[str, float]:
    """Return row to the share of the gap that it closes; empty until silos alone and central training are complete."""
    ends: dict[str, float] = {}
    for name, seeds in results.items():
        kind = comparison.rows[name].kind
        if kind != "federated" and len(seeds) == len(comparison.seeds):
            ends.setdefault(kind, _mean_si_sdr(seeds))
    if len(ends) < 2:
        return {}
    low, high = ends["alone"], ends["central"]
    return {
        name: (_mean_si_sdr(seeds) - low) / (high - low)
        for name, seeds in results.items()
        if comparison.rows[name].kind == "federated"
    }


def _mean_si_sdr(seeds: Seeds) -> float:
    return float(np.mean([result["common"]["SI_SDR"] for result in seeds.values()]))


def _lead(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    closed = {name: row["gap_closed"] for name, row in rows.items() if row.get("gap_closed") is not None}
    if not closed:
        return []
    reference, best = next(iter(closed)), max(closed, key=lambda name: closed[name])
    return [
        f"{reference} closes {closed[reference]:.0%} of the gap between silos alone and central training, the best "
        f"row, {best}, {closed[best]:.0%}."
    ]


def _sent(row: Mapping[str, Any]) -> str:
    return f"{row['bytes_up'] / 1e6:.1f}, {row['bytes_down'] / 1e6:.1f}" if row["kind"] == "federated" else ""


def _points(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Return row to rounds, megabytes sent, and share of the gap closed, of the federated rows."""
    return {
        name: (row["rounds"], (row["bytes_up"] + row["bytes_down"]) / 1e6, row["gap_closed"])
        for name, row in rows.items()
        if row.get("gap_closed") is not None
    }


def _without_scores(results: Results) -> list[str]:
    return [
        f"{row}, seed {seed}"
        for row, seeds in results.items()
        for seed, result in seeds.items()
        if "part_scores" not in result
    ]


def _histories(folders: Folders, row: str, seeds: Seeds) -> list[list[dict[str, Any]]]:
    """Return the rounds of each finished training of a row."""
    exps = [folders.of(row, seed) / training["exp"] for seed, result in seeds.items() for training in result["trained"]]
    return [history for history in (read_jsonl(path / "rounds.jsonl") for path in exps) if history]


def _curves(comparison: Comparison, folders: Folders, results: Results) -> dict[str, tuple[str, Sequence[float]]]:
    """Return row to line style and development score over rounds, a mean over seeds (and over silos alone)."""
    curves = {}
    for row, seeds in results.items():
        scores = [[entry["dev_SI_SNR"] for entry in history] for history in _histories(folders, row, seeds)]
        length = min(map(len, scores), default=0)
        style = "-" if comparison.rows[row].kind == "federated" else "--"
        if length:
            curves[row] = style, np.mean([score[:length] for score in scores], axis=0).tolist()
    return curves


def _weights(comparison: Comparison, folders: Folders, results: Results) -> dict[str, dict[int, dict[int, float]]]:
    """Return strategy to silo to round to weight, a mean over seeds, of the first row of each strategy."""
    default = comparison.federated.get("strategy", "examples")
    rows: dict[str, str] = {}
    for row in results:
        if comparison.rows[row].kind == "federated":
            rows.setdefault(str(comparison.rows[row].federated.get("strategy", default)), row)
    panels = {}
    for strategy, row in rows.items():
        weights: dict[int, dict[int, list[float]]] = {}
        for history in _histories(folders, row, results[row]):
            for entry in history:
                for silo, values in entry["silos"].items():
                    weights.setdefault(int(silo), {}).setdefault(entry["round"], []).append(values["alpha"])
        panels[strategy] = {
            silo: {number: float(np.mean(values)) for number, values in rounds.items()}
            for silo, rounds in weights.items()
        }
    return panels
