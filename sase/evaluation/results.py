"""RESULTS.md: the scores of an experiment's sets, and everything needed to reproduce them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sase import jsonfile, markdown
from sase.atomic import remove_ended_leftovers, write_text
from sase.data import left_out
from sase.errors import InputError
from sase.evaluation import figures
from sase.evaluation.provenance import CONFIGS, facts_of
from sase.evaluation.scores import Labels, Scores, groups
from sase.evaluation.scoring import PLAIN, SAMPLE_RATE, Method, read
from sase.evaluation.shards import ScoredSet, join_shards
from sase.metrics.measures import MEASURES, METRICS, measures_in, title_of
from sase.plotting import MAX_GROUPS

SUMMARY = "summary.json"
Summary = dict[str, Any]  # what summarise returns, and parts of it
_KINDS = {"snr": "SNR (dB)"}
_MEANING = """Higher is better for every measure. PESQ_WB is wide-band PESQ (ITU-T P.862.2, MOS-LQO); STOI and ESTOI are
(extended) short-time objective intelligibility; CSIG, CBAK and COVL are the composite measures of Hu and Loizou (2008),
computed with PESQ_WB on samples in the 16-bit range; SegSNR is the segmental SNR (frames clipped to -10...35 dB);
SI_SDR is the scale-invariant SDR of zero-mean signals. Everything is scored at {rate} Hz. Values are means ± standard
deviations over utterances."""


def finish(
    data_dir: str | Path,
    enhanced_dir: str | Path,
    out: str | Path,
    results_dir: str | Path | None = None,
    nj: int = 1,
    workers: int | None = None,
    utt: str | None = None,
    log: Callable[[str], object] = print,
    method: Method = PLAIN,
    unprocessed: str | Path | None = None,
) -> Summary:
    """Join the shards of a set's scores, draw the figures, write RESULTS.md, and return the set's summary.

    Args:
        data_dir, enhanced_dir, out, nj: as :func:`sase.evaluation.shards.score_shard`.
        results_dir: folder for RESULTS.md and images/; by default the experiment's folder, which is the parent of
            ``enhanced_dir`` if it has a config.yaml, else ``out``.
        workers: number of processes that scored; by default ``nj``.
        utt: the utterance to show; by default the one of median improvement.
        log: called with the path of RESULTS.md.
        method, unprocessed: as :func:`sase.evaluation.shards.score_shard`.
    """
    scored = join_shards(data_dir, enhanced_dir, out, nj, method, unprocessed)
    name = Path(data_dir).resolve().name
    exp = Path(enhanced_dir).resolve().parent
    folder = Path(results_dir or (exp if (exp / "config.yaml").is_file() else out))
    _draw_figures(folder / "images", name, scored, utt)
    remove_ended_leftovers(folder, folder / "images")  # of killed writers; another set may be scored now
    facts = facts_of(exp, scored.enhanced, workers or nj)
    summary = summarise(name, scored.unprocessed, scored.enhanced, scored.labels, facts)
    summary["paths"] = {"data": str(data_dir), "unprocessed": str(scored.unprocessed_dir)}
    if missing := left_out.read(scored.data.path):
        summary["left_out"] = missing
    write_summary(out, summary)
    others = [other for other in read_summaries(folder) if other["set"] != name]
    write_results(folder, sorted([*others, summary], key=lambda each: each["set"]))
    log(f"{folder / 'RESULTS.md'}: written")
    return summary


def _draw_figures(folder: Path, name: str, scored: ScoredSet, utt: str | None) -> None:
    """Draw the spectrograms of one utterance, and the improvements of all."""
    unprocessed, enhanced = scored.unprocessed, scored.enhanced
    utt = utt or figures.median_utt(unprocessed, enhanced)
    if utt not in enhanced.values:
        raise InputError(f"--utt {utt}: not one of the {len(enhanced.values)} scored utterances")
    pair = scored.pairs[utt]
    assert pair.enhanced is not None  # it has scores
    specs = scored.data.noisy[utt], pair.enhanced, scored.data.clean[utt]
    (noisy, rate), (cleaned, _), (clean, _) = map(read, specs)
    figures.draw_example(folder / f"{name}_spectrograms.png", utt, (noisy, cleaned, clean), rate, unprocessed, enhanced)
    figures.draw_improvements(folder / f"{name}_improvements.png", unprocessed, enhanced, scored.labels)


def summarise(name: str, unprocessed: Scores, enhanced: Scores, labels: Labels, facts: Mapping[str, str]) -> Summary:
    """Return everything that RESULTS.md says about one set, as plain dicts.

    Args:
        name: of the set.
        unprocessed, enhanced: :class:`~sase.evaluation.scores.Scores`.
        labels: as :func:`sase.evaluation.scores.labels_of` returns them.
        facts: {name: text} about the provenance of the scores.
    """
    common = [utt for utt in enhanced.values if utt in unprocessed.values]
    both = set(common)
    breakdowns = {
        kind: {
            f"{group:g}" if isinstance(group, float) else group: _both(unprocessed, enhanced, utts)
            for group, utts in groups({utt: label for utt, label in table.items() if utt in both}).items()
        }
        for kind, table in labels.items()
    }
    breakdowns = {kind: table for kind, table in breakdowns.items() if len(table) > 1}
    return {
        "set": name,
        **enhanced.summary(),
        "unprocessed": unprocessed.summary(),
        "common": _both(unprocessed, enhanced, common),
        "breakdowns": breakdowns,
        "failures": enhanced.failed,
        "facts": facts,
    }


def write_results(folder: str | Path, summaries: Iterable[Summary]) -> None:
    """Write RESULTS.md of one experiment.

    Args:
        folder: the experiment's folder, with the figures in images/.
        summaries: what :func:`summarise` returned for each set.
    """
    summaries = list(summaries)
    measures = _measures(*summaries)
    meanings = [MEASURES[name].meaning for name in measures if MEASURES[name].meaning]
    introduction = "\n".join([_MEANING.format(rate=SAMPLE_RATE), *meanings])
    lines = [f"# Results of {Path(folder).resolve().name}", "", introduction, ""]
    for summary in summaries:
        lines += _set_section(summary, Path(folder))
    write_text(Path(folder) / "RESULTS.md", "\n".join(lines).rstrip() + "\n")


def read_summaries(folder: str | Path) -> list[Summary]:
    """Return the summaries of all sets of an experiment."""
    paths = sorted(Path(folder).glob(f"enhanced_*/scoring/{SUMMARY}"))
    return [jsonfile.read(path) for path in paths]


def write_summary(folder: str | Path, summary: Summary) -> None:
    """Write what :func:`summarise` returned."""
    jsonfile.write(Path(folder) / SUMMARY, summary, indent=2)


def counts(summary: Summary) -> str:
    """Return the counts of a summary in one line."""
    text = f"{summary['scored']} scored, {summary['failed']} failed, {summary['without_speech']} without speech"
    if silent := summary.get("silent"):  # absent, as "trimmed", in summaries of an earlier version
        text += f", {silent} silent"
        if any(name in METRICS for name in summary["mean"]):
            text += " after enhancement, which count with the lowest value of each measure"
    if trimmed := summary.get("trimmed"):
        text += f", {trimmed} trimmed to the shorter signal by up to {summary['trimmed_samples']} samples (--trim)"
    partly = [f"{name} undefined for {count}" for name, count in summary["undefined"].items() if count]
    return f"{text} ({', '.join(partly)})" if partly else text


def text(summary: Summary) -> str:
    """Return means and counts for the terminal; the summary may lack the unprocessed input."""
    columns = {"mean": summary}
    if "unprocessed" in summary:
        columns = {"unprocessed": summary["unprocessed"], "enhanced": summary}
    lines = [" " * 12 + "".join(f"{title:>13}" for title in columns)]
    for name in _measures(summary):
        numbers = "".join(f"{_number(name, values['mean'].get(name)):>13}" for values in columns.values())
        lines.append(f"{title_of(name):<12}{numbers}")
    marks = [f"Not the whole test set: {_left_out(summary)}"] if summary.get("left_out") else []
    return "\n".join([*lines, counts(summary), *marks])


def table(summary: Summary) -> list[str]:
    """Return the Markdown table of a set, as lines: unprocessed, enhanced, improvement."""
    common, names = summary["common"], _measures(summary)
    difference = {"mean": _difference(common, names), "scored": common["enhanced"]["scored"]}
    signals = {"unprocessed": summary["unprocessed"], "enhanced": summary}
    rows = [_row([title], values, names, with_std=True) for title, values in signals.items()]
    lines = _table(["signal"], names, [*rows, _row(["improvement"], difference, names, sign="+")])
    return [*lines, "", f"**Not the whole test set:** {_left_out(summary)}"] if summary.get("left_out") else lines


def _left_out(summary: Summary) -> str:
    bad = summary["left_out"]
    return f"{len(bad)} bad utterances were left out (--skip-bad-test): {left_out.describe(bad)}."


def _both(unprocessed: Scores, enhanced: Scores, utts: Sequence[str]) -> Summary:
    return {"unprocessed": unprocessed.summary(utts), "enhanced": enhanced.summary(utts)}


def _measures(*summaries: Summary) -> list[str]:
    """Return the measures that are in one of the summaries, which other versions or options may have written."""
    return measures_in({name for summary in summaries for name in summary["mean"]})


def _difference(both: Summary, names: Iterable[str]) -> dict[str, float | None]:
    means = [(name, both["enhanced"]["mean"].get(name), both["unprocessed"]["mean"].get(name)) for name in names]
    return {name: None if None in (after, before) else after - before for name, after, before in means}


def _set_section(summary: Summary, folder: Path) -> list[str]:
    """Return the section of one set, as lines."""
    unprocessed = summary["unprocessed"]
    lines = [f"## {summary['set']}", "", *table(summary), ""]
    lines += [f"Enhanced: {counts(summary)}. Unprocessed: {counts(unprocessed)}.", ""]
    if summary["common"]["enhanced"]["scored"] < max(summary["scored"], unprocessed["scored"]):
        lines += ["The improvement and the breakdowns below are over the utterances that were scored in both.", ""]
    if summary["failures"]:
        lines += ["Failed:", "", *(f"- {utt}: {reason}" for utt, reason in summary["failures"].items()), ""]
    for kind, breakdown in summary["breakdowns"].items():
        lines += [f"### By {_KINDS.get(kind, kind)}", "", *breakdown_lines(kind, breakdown), ""]
    for image in sorted((folder / "images").glob(f"{summary['set']}_*.png")):
        lines += [f"![{image.stem.replace('_', ' ')}]({image.relative_to(folder).as_posix()})", ""]
    facts = dict(summary["facts"])
    configs = {name: facts.pop(name) for name in CONFIGS if name in facts}
    lines += ["### Provenance", "", *markdown.table(["", ""], facts.items(), compact=True), ""]
    for name, config in configs.items():
        lines += [f"<details><summary>{name}</summary>", "", "```yaml", config.rstrip(), "```", "</details>", ""]
    return lines


def breakdown_lines(kind: str, breakdown: Summary) -> list[str]:
    """Return the Markdown table of one breakdown of a set's summary, such as ``snr`` or ``noise``, as lines."""
    if len(breakdown) > MAX_GROUPS:
        return [f"Not shown: there are {len(breakdown)} groups. The scores per utterance are in scores.csv."]
    names = _measures(*(both["enhanced"] for both in breakdown.values()))
    rows = [
        _row([group, signal], values, names) for group, both in breakdown.items() for signal, values in both.items()
    ]
    return _table([_KINDS.get(kind, kind), "signal"], names, rows)


def _table(columns: Sequence[str], names: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    titles = map(title_of, names)
    return markdown.table([*columns, "utterances", *titles], rows, "l" * len(columns) + "r", compact=True)


def _row(
    columns: Sequence[str], summary: Summary, names: Sequence[str], with_std: bool = False, sign: str = ""
) -> list[str]:
    cells = [_number(name, summary["mean"].get(name), sign) for name in names]
    if with_std:
        cells = [f"{cell} ± {_number(name, summary['std'].get(name))}" for name, cell in zip(names, cells)]
    return [*columns, str(summary["scored"]), *cells]


def _number(name: str, value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.{MEASURES[name].decimals}f}"
