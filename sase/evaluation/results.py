"""RESULTS.md: the scores of an experiment's sets, and everything that a reader needs to make them again."""

from pathlib import Path

from sase import jsonfile, markdown
from sase.atomic import write_text
from sase.data.datadir import read_data_dir
from sase.errors import InputError
from sase.evaluation import figures
from sase.evaluation.provenance import CONFIGS, facts_of
from sase.evaluation.scoring import SAMPLE_RATE, data_pairs, groups, join_shards, labels_of, read
from sase.metrics.measures import METRICS
from sase.plotting import MAX_GROUPS

SUMMARY = "summary.json"
_DECIMALS = {"PESQ_WB": 3, "STOI": 4, "ESTOI": 4, "CSIG": 3, "CBAK": 3, "COVL": 3, "SegSNR": 2, "SI_SDR": 2}
_UNITS = {"SegSNR": " (dB)", "SI_SDR": " (dB)"}
_KINDS = {"snr": "SNR (dB)"}
_MEANING = """Higher is better everywhere. PESQ_WB is wide-band PESQ (ITU-T P.862.2, MOS-LQO), STOI and ESTOI are the
(extended) short-time objective intelligibility, CSIG, CBAK and COVL the composite ratings of Hu and Loizou (2008) with
PESQ_WB in them, on 16-bit-scale samples, SegSNR the segmental SNR (frames cut to -10...35 dB), SI_SDR the
scale-invariant SDR of zero-mean signals. Everything is scored at {rate} Hz. Numbers are means ± standard deviations
over utterances."""


def finish(data_dir, enhanced_dir, out, results_dir=None, nj=1, workers=None, utt=None, log=print):
    """Join the shards of a set's scores, draw the figures, write RESULTS.md, and return the set's summary.

    Args:
        data_dir, enhanced_dir, out, nj: as :func:`sase.evaluation.scoring.score_shard`.
        results_dir: folder for RESULTS.md and images/. By default that of the experiment, which is the one above
            ``enhanced_dir`` when it holds config.yaml, else ``out``.
        workers: how many processes scored; as many as shards when None.
        utt: the utterance to show; by default the one of median improvement.
        log: called with the place of RESULTS.md.
    """
    unprocessed, enhanced = join_shards(data_dir, enhanced_dir, out, nj)
    exp = Path(enhanced_dir).resolve().parent
    folder = Path(results_dir or (exp if (exp / "config.yaml").is_file() else out))
    data, name = read_data_dir(data_dir), Path(data_dir).resolve().name
    labels = labels_of(data)
    utt = utt or figures.median_utt(unprocessed, enhanced)
    if utt not in enhanced.values:
        raise InputError(f"--utt {utt}: is not one of the {len(enhanced.values)} scored utterances")
    example = folder / "images" / f"{name}_spectrograms.png"
    specs = [data.noisy[utt], next(p.enhanced for p in data_pairs(data, enhanced_dir) if p.utt == utt), data.clean[utt]]
    wavs, rates = zip(*map(read, specs))
    figures.draw_example(example, utt, wavs, rates[0], unprocessed, enhanced)
    figures.draw_improvements(folder / "images" / f"{name}_improvements.png", unprocessed, enhanced, labels)
    summary = summarise(name, unprocessed, enhanced, labels, facts_of(exp, enhanced, workers or nj))
    write_summary(out, summary)
    others = [other for other in read_summaries(folder) if other["set"] != name]
    write_results(folder, sorted([*others, summary], key=lambda each: each["set"]))
    log(f"{folder / 'RESULTS.md'}: written")
    return summary


def summarise(name, unprocessed, enhanced, labels, facts):
    """Return everything that RESULTS.md says of one set, as plain dicts.

    Args:
        name: of the set.
        unprocessed, enhanced: :class:`~sase.evaluation.scoring.Scores`.
        labels: as :func:`sase.evaluation.scoring.labels_of` gives them.
        facts: {what: text} on how the scores came about.
    """
    common = [utt for utt in enhanced.values if utt in unprocessed.values]
    both = set(common)  # a list would be searched through for every utterance
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


def write_results(folder, summaries):
    """Write RESULTS.md of one experiment.

    Args:
        folder: where to; figures are looked for below it.
        summaries: list of what :func:`summarise` returned, one a set.
    """
    lines = [f"# Results of {Path(folder).resolve().name}", "", _MEANING.format(rate=SAMPLE_RATE), ""]
    for summary in summaries:
        lines += _set_section(summary, Path(folder))
    write_text(Path(folder) / "RESULTS.md", "\n".join(lines).rstrip() + "\n")


def read_summaries(folder):
    """Return the summaries of all sets of an experiment."""
    paths = sorted(Path(folder).glob(f"enhanced_*/scoring/{SUMMARY}"))
    return [jsonfile.read(path) for path in paths]


def write_summary(folder, summary):
    """Write what :func:`summarise` returned."""
    jsonfile.write(Path(folder) / SUMMARY, summary, indent=2)


def counts(summary):
    """Return the counts of a summary in one line."""
    text = f"{summary['scored']} scored, {summary['failed']} failed, {summary['without_speech']} without speech"
    partly = [f"{name} undefined for {count}" for name, count in summary["undefined"].items() if count]
    return f"{text} ({', '.join(partly)})" if partly else text


def text(summary):
    """Return means and counts for the terminal, of a set's summary or of one without unprocessed input."""
    columns = {"mean": summary}
    if "unprocessed" in summary:
        columns = {"unprocessed": summary["unprocessed"], "enhanced": summary}
    lines = [" " * 12 + "".join(f"{title:>13}" for title in columns)]
    for name in METRICS:
        numbers = "".join(f"{_number(name, values['mean'][name]):>13}" for values in columns.values())
        lines.append(f"{name + _UNITS.get(name, ''):<12}{numbers}")
    return "\n".join([*lines, counts(summary)])


def table(summary):
    """Return the lines of a Markdown table of one summary of a set: unprocessed, enhanced, improvement."""
    rows = [_row(["unprocessed"], summary["unprocessed"], True), _row(["enhanced"], summary, True)]
    common = summary["common"]
    difference = {"mean": _difference(common), "scored": common["enhanced"]["scored"]}
    return _table(["signal"], [*rows, _row(["improvement"], difference, False, "+")])


def _both(unprocessed, enhanced, utts):
    return {"unprocessed": unprocessed.summary(utts), "enhanced": enhanced.summary(utts)}


def _difference(both):
    means = [(name, both["enhanced"]["mean"][name], both["unprocessed"]["mean"][name]) for name in METRICS]
    return {name: None if None in (after, before) else after - before for name, after, before in means}


def _set_section(summary, folder):
    """Return the lines of everything on one set."""
    unprocessed = summary["unprocessed"]
    lines = [f"## {summary['set']}", "", *table(summary), ""]
    lines += [f"Enhanced: {counts(summary)}. Unprocessed: {counts(unprocessed)}.", ""]
    if summary["common"]["enhanced"]["scored"] < max(summary["scored"], unprocessed["scored"]):
        lines += ["The improvement and all that follows is over the utterances that were scored in both.", ""]
    if summary["failures"]:
        lines += ["Failed:", "", *(f"- {utt}: {reason}" for utt, reason in summary["failures"].items()), ""]
    for kind, breakdown in summary["breakdowns"].items():
        lines += [f"### By {_KINDS.get(kind, kind)}", "", *breakdown_lines(kind, breakdown), ""]
    for image in sorted((folder / "images").glob(f"{summary['set']}_*.png")):
        lines += [f"![{image.stem.replace('_', ' ')}]({image.relative_to(folder).as_posix()})", ""]
    facts = dict(summary["facts"])
    configs = {name: facts.pop(name) for name in CONFIGS if name in facts}
    lines += ["### How these came about", "", *markdown.table(["", ""], facts.items(), compact=True), ""]
    for name, config in configs.items():
        lines += [f"<details><summary>{name}</summary>", "", "```yaml", config.rstrip(), "```", "</details>", ""]
    return lines


def breakdown_lines(kind, breakdown):
    """Return the lines of a Markdown table of one break-down of a set's summary, as by ``snr`` or ``noise``."""
    if len(breakdown) > MAX_GROUPS:
        return [f"There are {len(breakdown)} of them; the scores of each utterance are in scores.csv."]
    rows = [
        _row([group, signal], values, False) for group, both in breakdown.items() for signal, values in both.items()
    ]
    return _table([_KINDS.get(kind, kind), "signal"], rows)


def _table(columns, rows):
    names = [f"{name}{_UNITS.get(name, '')}" for name in METRICS]
    return markdown.table([*columns, "utterances", *names], rows, "l" * len(columns) + "r", compact=True)


def _row(columns, summary, with_std, sign=""):
    cells = [_number(name, summary["mean"][name], sign) for name in METRICS]
    if with_std:
        cells = [f"{cell} ± {_number(name, summary['std'][name])}" for name, cell in zip(METRICS, cells)]
    return [*columns, str(summary["scored"]), *cells]


def _number(name, value, sign=""):
    return "–" if value is None else f"{value:{sign}.{_DECIMALS[name]}f}"
