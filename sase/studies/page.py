"""RESULTS.md of a study: means over seeds, paired differences with intervals, verdicts, figures.

A plan gives a summary, plain types that ``summary.json`` holds as well. Of each row in ``summary["rows"]`` are used:
``table`` (the section), ``against`` (the row it is compared with, or None), ``seeds``, ``means`` ({set: {measure: value
of each seed}}), and ``differences`` ({set: {"all": {measure: entry}, kind: {group: {measure: entry}}}}), where
an entry is what :func:`difference_entry` returns.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sase import jsonfile, markdown
from sase.atomic import write_text
from sase.evaluation.scores import groups
from sase.plotting import MAX_GROUPS
from sase.studies.evidence import LEVEL, RESAMPLES, Difference, paired_difference
from sase.studies.figures import draw_differences
from sase.studies.grid import folder_name
from sase.studies.scores import DECIMALS, MEASURES, TITLES, Scores

_KINDS = {"noise": "noise", "snr": "SNR of the unprocessed input (dB)", "silo": "silo"}
_GROUP_MEASURES = ("PESQ_WB", "SI_SDR")
_SNR_STEP_DB = 5.0  # width of SNR groups if single SNRs would be too many
_EVIDENCE = """Seeds {seeds}; values are mean ± standard deviation over seeds of the mean over utterances. Differences
are paired by utterance and seed; brackets show the {level:.0%} bootstrap interval over utterances ({resamples}
resamples of the differences averaged over seeds), ± shows the standard deviation over seeds. A difference is called
better or worse, and set in bold, only if its interval excludes 0 and all seeds agree in sign. Between equal systems the
seeds agree by chance in one case of {cases}."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PageSpec:
    """What the page of one kind of study shows.

    Attributes:
        title: heading of the page.
        notes: what this study adds to the explanation of the evidence.
        seeds: of every row.
        measures: those of the tables, to their titles.
        decimals: of each measure.
        baselines: {set: {title: {measure: mean}}}, shown above the rows.
        columns: heading to a function that returns the text of a row's cell, after the measures.
        image_prefix: of the figures of differences, in ``images/``.
        lead: sentences before the verdicts.
    """

    title: str
    notes: str
    seeds: Sequence[int]
    measures: Mapping[str, str] = field(default_factory=lambda: dict(TITLES))
    decimals: Mapping[str, int] = field(default_factory=lambda: dict(DECIMALS))
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    columns: Mapping[str, Callable[[Row], str]] = field(default_factory=dict)
    image_prefix: str = "differences"
    lead: Sequence[str] = ()


def write(out: Path, spec: PageSpec, summary: Mapping[str, Any], appendix: Sequence[str] = ()) -> None:
    """Write ``RESULTS.md``, the figures of differences, and ``summary.json``.

    Args:
        out: the study's folder.
        spec: a :class:`PageSpec`.
        summary: with ``rows`` and ``utterances`` ({set: count}).
        appendix: lines at the end of the page.
    """
    jsonfile.write(out / "summary.json", summary, indent=1)
    for table in _tables(summary["rows"]):
        if compared := _compared(_of_table(summary["rows"], table)):
            draw_differences(compared, dict(spec.measures), out / _image(spec, table))
    write_text(out / "RESULTS.md", "\n".join([*lines(spec, summary), *appendix]).rstrip() + "\n")


def lines(spec: PageSpec, summary: Mapping[str, Any]) -> list[str]:
    """Return the lines of RESULTS.md."""
    seeds, cases = ", ".join(map(str, spec.seeds)), 2 ** (len(spec.seeds) - 1)
    evidence = _EVIDENCE.format(seeds=seeds, cases=cases, level=LEVEL, resamples=f"{RESAMPLES:,}")
    text = [f"# {spec.title}", "", *evidence.splitlines(), "", *spec.notes.splitlines(), ""]
    for table in _tables(summary["rows"]):
        rows = _of_table(summary["rows"], table)
        text += [f"## {table}", "", *[f"- {sentence}" for sentence in [*spec.lead, *verdicts(spec, rows)]], ""]
        if _compared(rows):
            text += [f"![{table}: differences with their intervals]({_image(spec, table)})", ""]
        for name, count in summary["utterances"].items():
            text += [f"### {table}, {name} set ({count} utterances)", ""]
            text += [*_means_table(spec, rows, name), "", *_differences_table(spec, rows, name)]
            for kind, title in _KINDS.items():
                text += _group_tables(spec, rows, name, kind, title)
    return text


def verdicts(spec: PageSpec, rows: Mapping[str, Row]) -> list[str]:
    """Return a sentence for each row that is compared with another: better, worse or no difference, on the test set."""
    sentences = []
    for name, row in _compared(rows).items():
        found = row["differences"]["test"]["all"]
        parts = [
            f"{title} {_verdict(found[m])}, {_difference(found[m], spec.decimals[m])}"
            for m, title in spec.measures.items()
            if m in found
        ]
        sentences.append(f"**{name}** against {row['against']}: {'; '.join(parts)}.")
    return sentences


def set_differences(
    first: Mapping[int, Scores],
    second: Mapping[int, Scores],
    kinds: Mapping[str, Mapping[str, Iterable[str]]],
    measures: Sequence[str] = MEASURES,
) -> dict[str, Any]:
    """Return {"all": {measure: difference}, kind: {group: {measure: difference}}} of two rows on one set.

    Args:
        first, second: scores by seed.
        kinds: {kind: {group: utterances}}, from :func:`group_kinds`.
        measures: those to compare.
    """

    def over(utts: set[str] | None) -> dict[str, Any]:
        found = {}
        for measure in measures:
            tables = [
                {
                    seed: {utt: row[measure] for utt, row in scores.items() if utts is None or utt in utts}
                    for seed, scores in system.items()
                }
                for system in (first, second)
            ]
            try:
                found[measure] = difference_entry(paired_difference(tables[0], tables[1]))
            except ValueError:  # no seed in common yet, or a measure that is undefined everywhere
                continue
        return found

    by_kind = {kind: {group: over(set(utts)) for group, utts in table.items()} for kind, table in kinds.items()}
    return {"all": over(None), **by_kind}


def difference_entry(difference: Difference) -> dict[str, Any]:
    """Return a difference as a summary holds it."""
    return {
        "mean": difference.mean,
        "interval": [difference.low, difference.high],
        "seeds": list(difference.seeds),
        "sign": difference.sign,
        "deviation": difference.deviation,
        "utterances": difference.count,
    }


def group_kinds(labels: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Return {kind: {group: utterances}} of the labels with several groups, but not too many.

    Args:
        labels: {"noise": {utterance: name}, "snr": {utterance: dB}}; others are ignored.
    """
    kinds = {}
    for kind in _KINDS:
        table = labels.get(kind, {})
        if kind == "snr" and len(set(table.values())) > MAX_GROUPS:
            table = {utt: _SNR_STEP_DB * math.floor(value / _SNR_STEP_DB) for utt, value in table.items()}
        found = groups(table)
        if 1 < len(found) <= MAX_GROUPS:
            kinds[kind] = {f"{g:g}" if isinstance(g, float) else str(g): utts for g, utts in found.items()}
    return kinds


def mean_std(values: Sequence[float], decimals: int, sign: str = "") -> str:
    """Return ``mean ± standard deviation`` of values over seeds as text; of a single one, the value."""
    text = f"{statistics.fmean(values):{sign}.{decimals}f}"
    return f"{text} ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else text


def _tables(rows: Mapping[str, Row]) -> list[str]:
    return list(dict.fromkeys(row["table"] for row in rows.values()))


def _of_table(rows: Mapping[str, Row], table: str) -> dict[str, Row]:
    return {name: row for name, row in rows.items() if row["table"] == table}


def _compared(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {name: row for name, row in rows.items() if "differences" in row}


def _image(spec: PageSpec, table: str) -> str:
    return f"images/{spec.image_prefix}_{folder_name(table)}.png"


def _means_table(spec: PageSpec, rows: Mapping[str, Row], name: str) -> list[str]:
    cells = [
        [title, *[_number(found[m], spec.decimals[m]) if m in found else "" for m in spec.measures]]
        + [""] * len(spec.columns)
        for title, found in spec.baselines.get(name, {}).items()
    ]
    for title, row in rows.items():
        if len(row["seeds"]) < len(spec.seeds):
            title = f"{title} ({len(row['seeds'])} of {len(spec.seeds)} seeds)"
        means = row["means"][name]
        texts = [mean_std(means[m], spec.decimals[m]) if m in means else "" for m in spec.measures]
        cells.append([title, *texts, *[text(row) for text in spec.columns.values()]])
    return markdown.table(["", *spec.measures.values(), *spec.columns], cells, "lr")


def _differences_table(spec: PageSpec, rows: Mapping[str, Row], name: str) -> list[str]:
    cells = []
    for title, row in _compared(rows).items():
        found = row["differences"][name]["all"]
        texts = [_bold(found[m], _difference(found[m], spec.decimals[m])) if m in found else "–" for m in spec.measures]
        cells.append([f"{title} − {row['against']}", *texts])
    return [*markdown.table(["difference", *spec.measures.values()], cells), ""] if cells else []


def _group_tables(spec: PageSpec, rows: Mapping[str, Row], name: str, kind: str, title: str) -> list[str]:
    """Return tables of the differences in every group, for the two most important measures."""
    compared = {row: entry["differences"][name] for row, entry in _compared(rows).items()}
    compared = {row: found for row, found in compared.items() if found.get(kind)}
    if not compared:
        return []
    names, text = list(next(iter(compared.values()))[kind]), []
    for measure in _GROUP_MEASURES:
        cells = []
        for row, found in compared.items():
            entries = [found[kind].get(group, {}).get(measure) for group in names]
            texts = ["–" if e is None else _bold(e, _difference(e, spec.decimals[measure], False)) for e in entries]
            cells.append([f"{row} − {rows[row]['against']}", *texts])
        text += [f"{spec.measures[measure]}, differences by {title}:", "", *markdown.table(["", *names], cells), ""]
    return text


def _verdict(entry: Mapping[str, Any]) -> str:
    if entry["sign"]:
        return "better" if entry["sign"] > 0 else "worse"
    if len(entry["seeds"]) < 2:
        return "undecided with one seed"
    return "undecided without interval" if math.isnan(entry["interval"][0]) else "no reliable difference"


def _difference(entry: Mapping[str, Any], decimals: int, with_deviation: bool = True) -> str:
    low, high = entry["interval"]
    text = f"{entry['mean']:+.{decimals}f}"
    if with_deviation and len(entry["seeds"]) > 1:
        text += f" ± {entry['deviation']:.{decimals}f}"
    return text if math.isnan(low) else f"{text} [{low:+.{decimals}f}, {high:+.{decimals}f}]"


def _bold(entry: Mapping[str, Any], text: str) -> str:
    return f"**{text}**" if entry["sign"] else text


def _number(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"
