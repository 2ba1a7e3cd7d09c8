"""RESULTS.md, images and summary.json of an ablation: means over seeds, paired differences with intervals, words."""

import math
import statistics
from pathlib import Path

import numpy as np

from sase import jsonfile, markdown
from sase.atomic import write_text
from sase.bench.stages import machine
from sase.evaluation.scoring import groups
from sase.plotting import MAX_GROUPS
from sase.profiling import with_unit
from sase.studies.ablation import UNPROCESSED, labels, results, unprocessed
from sase.studies.ablation_figure import draw_differences
from sase.studies.evidence import LEVEL, REPEATS, paired_difference
from sase.studies.grid import DECIMALS, MEASURES, folder_name, mean_std

_UNITS = {"SI_SDR": " (dB)"}
_KINDS = {"noise": "noise", "snr": "SNR of the unprocessed input (dB)"}
_SNR_STEP_DB = 5.0  # of SNRs that are too many to stand each alone
_EXPLANATION = """Seeds {seeds}; a number is the mean ± standard deviation over them of the mean over utterances. A
difference is taken utterance by utterance and seed by seed; in brackets stands its {level:.0%} bootstrap interval over
utterances ({repeats} draws of the differences averaged over seeds), and behind ± how much its mean changes from seed to
seed. A row is said to differ, and its difference is bold, only where the interval leaves out 0 and every seed agrees in
sign. Of equal networks the seeds agree by chance in one case of {cases}, so what one set says should be looked for on
the other. Scored are the weights after the last step: all rows had as many, and neither set has chosen anything.
RTF: seconds of the processor, on one thread, to enhance a second of sound, the least of all runs."""


def write_page(ablation, sets, out, log=print):
    """Write ``RESULTS.md``, ``images/`` and ``summary.json`` of whatever is done so far.

    Args:
        ablation: a :class:`sase.studies.ablation.Ablation`.
        sets: a :class:`sase.studies.ablation.Sets`.
        out: the experiment's folder.
        log: called with the place of the page.
    """
    done = {row: seeds for row, seeds in results(ablation, sets, out).items() if seeds}
    summary = summarise(ablation, done, unprocessed(ablation, sets, out), labels(sets))
    jsonfile.write(Path(out) / "summary.json", summary, indent=1)
    for table in _tables(ablation):
        if compared := _compared(summary, table):
            draw_differences(compared, {m: _title(m) for m in MEASURES}, Path(out) / _image(table))
    write_text(Path(out) / "RESULTS.md", "\n".join(page(ablation, summary)).rstrip() + "\n")
    counts = f"{sum(map(len, done.values()))} of {len(ablation.rows) * len(ablation.seeds)}"
    log(f"{Path(out) / 'RESULTS.md'}: {counts} trainings are in it")


def summarise(ablation, done, noisy, labels_of_sets):
    """Return everything that the page tells, as plain types.

    Args:
        ablation: a :class:`sase.studies.ablation.Ablation`.
        done: row to seed to result.
        noisy: {set: {utt: {measure: value}}} of the unprocessed input.
        labels_of_sets: {set: labels} as :func:`sase.studies.ablation.labels` gives them.
    """
    rows = {}
    for name, seeds in done.items():
        runs = list(seeds.values())
        row = {
            "table": ablation.rows[name].table,
            "against": ablation.rows[name].against,
            "seeds": list(seeds),
            "parameters": runs[0]["parameters"],
            "macs_per_s": runs[0]["macs_per_s"],
            "rtf": min(run["rtf"]["processor"] for run in runs),
            "training_s": statistics.fmean(run["seconds_here"]["training"] for run in runs),
            "means": {each: {m: [_mean(run["scores"][each], m) for run in runs] for m in MEASURES} for each in noisy},
        }
        if row["against"] in done:
            row["differences"] = {
                each: _differences(done, name, row["against"], each, _kinds(labels_of_sets[each])) for each in noisy
            }
        rows[name] = row
    means = {each: {m: _mean(table, m) for m in MEASURES} for each, table in noisy.items()}
    counts = {each: len(table) for each, table in noisy.items()}
    return {"rows": rows, UNPROCESSED: means, "utterances": counts, "machine": machine()}


def page(ablation, summary):
    """Return the lines of RESULTS.md of what :func:`summarise` gave."""
    seeds, cases = ", ".join(map(str, ablation.seeds)), 2 ** (len(ablation.seeds) - 1)
    explanation = _EXPLANATION.format(seeds=seeds, cases=cases, level=LEVEL, repeats=REPEATS)
    lines = ["# What each part is worth", "", *explanation.splitlines(), ""]
    for table in _tables(ablation):
        rows = {name: row for name, row in summary["rows"].items() if row["table"] == table}
        if not rows:
            continue
        lines += [f"## {table}", "", *[f"- {sentence}" for sentence in verdicts(rows)], ""]
        if _compared(summary, table):
            lines += [f"![{table}: differences with their intervals]({_image(table)})", ""]
        for each, count in summary["utterances"].items():
            lines += [f"### {table}, {each} set ({count} utterances)", ""]
            lines += _means_table(ablation, rows, summary[UNPROCESSED][each], each) + [""]
            lines += _differences_table(rows, each)
            for kind, title in _KINDS.items():
                lines += _group_tables(rows, each, kind, title)
    return [*lines, f"Measured on {summary['machine']}."]


def verdicts(rows):
    """Return a sentence for each row that is compared with another: better, worse or no difference, on the test set."""
    sentences = []
    for name, row in rows.items():
        if "differences" not in row:
            continue
        told = row["differences"]["test"]["all"]
        words = {1: "better", -1: "worse", 0: "no reliable difference"}
        parts = [f"{_title(m)} {words[told[m]['sign']]}, {_difference(told[m], m)}" for m in MEASURES if m in told]
        sentences.append(f"**{name}** against {row['against']}: {'; '.join(parts)}.")
    return sentences


def _tables(ablation):
    return list(dict.fromkeys(row.table for row in ablation.rows.values()))


def _compared(summary, table):
    return {name: row for name, row in summary["rows"].items() if row["table"] == table and "differences" in row}


def _image(table):
    return f"images/ablation_{folder_name(table)}.png"


def _differences(done, name, against, each, kinds):
    """Return {"all": {measure: difference}, kind: {group: {measure: difference}}} of two rows on one set."""

    def over(utts):
        found = {}
        for measure in MEASURES:
            first, second = (
                {
                    seed: {u: row[measure] for u, row in run["scores"][each].items() if utts is None or u in utts}
                    for seed, run in done[which].items()
                }
                for which in (name, against)
            )
            try:
                told = paired_difference(first, second)
            except ValueError:  # no seed in common yet, or a measure that is nowhere defined
                continue
            found[measure] = {
                "mean": told.mean,
                "interval": [told.low, told.high],
                "seeds": list(told.seeds),
                "sign": told.sign,
                "deviation": told.deviation,
                "utterances": told.count,
            }
        return found

    by_kind = {k: {group: over(set(utts)) for group, utts in table.items()} for k, table in kinds.items()}
    return {"all": over(None), **by_kind}


def _kinds(labels_of_set):
    """Return {"noise": {group: utts}, "snr": {group: utts}}, where there is more than one group and not too many."""
    kinds = {}
    for kind in _KINDS:
        table = labels_of_set.get(kind, {})
        if kind == "snr" and len(set(table.values())) > MAX_GROUPS:
            table = {utt: _SNR_STEP_DB * math.floor(value / _SNR_STEP_DB) for utt, value in table.items()}
        found = groups(table)
        if 1 < len(found) <= MAX_GROUPS:
            kinds[kind] = {f"{g:g}" if isinstance(g, float) else str(g): utts for g, utts in found.items()}
    return kinds


def _means_table(ablation, rows, noisy, each):
    heading = ["", *map(_title, MEASURES), "parameters", "MAC a second", "RTF", "training (min)"]
    cells_of_rows = [[UNPROCESSED, *[_number(noisy[m], m) for m in MEASURES], "", "", "", ""]]
    for name, row in rows.items():
        missing = len(ablation.seeds) - len(row["seeds"])
        title = name if not missing else f"{name} ({len(row['seeds'])} of {len(ablation.seeds)} seeds)"
        cells = [mean_std(row["means"][each][m], DECIMALS[m]) for m in MEASURES]
        costs = [*(with_unit(row[name]) for name in ("parameters", "macs_per_s")), f"{row['rtf']:.4f}"]
        costs.append(f"{row['training_s'] / 60:.1f}")
        cells_of_rows.append([title, *cells, *costs])
    return markdown.table(heading, cells_of_rows, "lr")


def _differences_table(rows, each):
    compared = {name: row for name, row in rows.items() if "differences" in row}
    if not compared:
        return []
    cells_of_rows = []
    for name, row in compared.items():
        told = row["differences"][each]["all"]
        cells = [_marked(told[m], _difference(told[m], m)) if m in told else "–" for m in MEASURES]
        cells_of_rows.append([f"{name} − {row['against']}", *cells])
    return [*markdown.table(["difference", *map(_title, MEASURES)], cells_of_rows), ""]


def _group_tables(rows, each, kind, title):
    """Return tables of the differences in every group, for the measures that a reader looks for first."""
    compared = {name: row["differences"][each] for name, row in rows.items() if "differences" in row}
    compared = {name: told for name, told in compared.items() if kind in told}
    if not compared:
        return []
    names, lines = list(next(iter(compared.values()))[kind]), []
    for measure in ("PESQ_WB", "SI_SDR"):
        lines += [f"{_title(measure)}, differences by {title}:", ""]
        cells_of_rows = []
        for name, told in compared.items():
            cells = [told[kind][group].get(measure) for group in names]
            cells = ["–" if cell is None else _marked(cell, _difference(cell, measure, short=True)) for cell in cells]
            cells_of_rows.append([f"{name} − {rows[name]['against']}", *cells])
        lines += [*markdown.table(["", *names], cells_of_rows), ""]
    return lines


def _difference(told, measure, short=False):
    decimals, (low, high) = DECIMALS[measure], told["interval"]
    mean = f"{told['mean']:+.{decimals}f}"
    if not short and len(told["seeds"]) > 1:
        mean += f" ± {told['deviation']:.{decimals}f}"
    return mean if math.isnan(low) else f"{mean} [{low:+.{decimals}f}, {high:+.{decimals}f}]"


def _marked(told, text):
    return f"**{text}**" if told["sign"] else text


def _title(measure):
    return f"{measure}{_UNITS.get(measure, '')}"


def _number(value, measure):
    return "–" if math.isnan(value) else f"{value:.{DECIMALS[measure]}f}"


def _mean(table, measure):
    values = np.array([row[measure] for row in table.values()])
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
