"""RESULTS.md and figures of the comparison: what every way of training in silos reached, and what that means."""

import statistics

import numpy as np

from sase import markdown
from sase.atomic import write_text
from sase.jsonfile import read_jsonl
from sase.plotting import save_figure
from sase.studies.comparison import MEASURES, read_results
from sase.studies.grid import DECIMALS, mean_std

_HEADINGS = [
    "training",
    "SI_SDR (dB)",
    "PESQ_WB",
    "STOI",
    "worst silo's SI_SDR (dB)",
    "gap closed",
    "sent up, down (MB)",
    "wall time (s)",
]
_LEAST_DB = 0.1  # a difference that anybody could care about
_EXPLANATION = """Means ± standard deviations over the seeds {seeds}; {utterances} utterances of the common test set,
the best round by the server's development set. "Worst silo" is the lowest mean over the silos' parts of the test set
(a silo alone: its own model on its own part). "Gap closed" is how much of the way from the mean silo alone to central
training was gone, in SI_SDR. "Sent" is what all silos sent and got in all rounds; wall time is that of all rounds,
silos one after the other on one thread."""
_IN_WORDS = """Pair by pair of equal seeds. What is less than 0.1 dB, or than its own standard deviation over seeds, is
called no difference."""


def write_page(comparison, folders, before, log=print):
    """Write ``RESULTS.md`` and ``images/`` into the experiment's folder, of whatever is done so far.

    Args:
        comparison: a :class:`sase.studies.comparison.Comparison`.
        folders: a :class:`sase.studies.comparison.Folders`.
        before: title to mean scores before training, from :func:`sase.studies.comparison.before_training`.
        log: called with the place of the page.
    """
    results = {row: seeds for row, seeds in read_results(comparison, folders).items() if seeds}
    lines = ["# Ways of training in silos", "", *_explained(comparison), ""]
    lines += _table(comparison, results, before) + [""]
    lines += ["## In words", "", _IN_WORDS, "", *[f"- {line}" for line in verdicts(comparison, results)], ""]
    if results:
        images = folders.out / "images"
        _draw_scores(images / "rounds.png", comparison, folders, results)
        lines += ["![development scores over rounds](images/rounds.png)", ""]
        if _draw_alphas(images / "alphas.png", comparison, folders, results):
            lines += ["![weights of the silos over rounds](images/alphas.png)", ""]
    write_text(folders.out / "RESULTS.md", "\n".join(lines))
    log(
        f"{folders.out / 'RESULTS.md'}: {sum(map(len, results.values()))} of "
        f"{len(comparison.rows) * len(comparison.seeds)} trainings are in it"
    )


def verdicts(comparison, results):
    """Return sentences: what central training is above silos alone, and what each row changed against the first.

    A difference is taken pair by pair of equal seeds, and told as one only where it is larger than its own standard
    deviation over seeds and than 0.1 dB; with one seed nothing is said.
    """
    ends = {kind: _kind(comparison, results, kind) for kind in ("alone", "central")}
    sentences = []
    if all(ends.values()):
        differences = _paired(ends["central"], ends["alone"], "SI_SDR")
        sentences.append(f"Central training is {mean_std(differences, 2)} dB above the mean silo alone.")
    federated = [row for row in results if comparison.rows[row].kind == "federated"]
    if not federated:
        return sentences
    reference, *others = federated
    if all(ends.values()):
        closed = {row: np.mean(_closed(results[row], ends)) for row in federated}
        best = max(closed, key=closed.get)
        sentences.append(
            f"{reference} closes {closed[reference]:.0%} of that gap, the best row, {best}, {closed[best]:.0%}."
        )
    for row in others:
        differences = _paired(results[row], results[reference], "SI_SDR")
        if len(differences) < 2:
            continue
        of_worst = _paired(results[row], results[reference], None)
        sentences.append(
            f"{row} against {reference}: {mean_std(differences, 2, '+')} dB SI_SDR, {_word(differences)}; "
            f"for the worst silo {mean_std(of_worst, 2, '+')} dB, {_word(of_worst)}."
        )
    return sentences


def _word(differences):
    mean, deviation = np.mean(differences), statistics.stdev(differences)
    if abs(mean) <= max(_LEAST_DB, deviation):
        return "no difference"
    return "a gain" if mean > 0 else "a loss"


def _explained(comparison):
    utterances = comparison.test_utterances or "all"
    seeds = ", ".join(map(str, comparison.seeds))
    return _EXPLANATION.format(seeds=seeds, utterances=utterances).splitlines()


def _table(comparison, results, before):
    ends = {kind: _kind(comparison, results, kind) for kind in ("alone", "central")}
    rows: list[list[str]] = []
    for title, means in before.items():
        rows.append([title, *[f"{means[name]:.{DECIMALS[name]}f}" for name in MEASURES], "", "", "", ""])
    for row, seeds in results.items():
        done = list(seeds.values())
        title = row if len(done) == len(comparison.seeds) else f"{row} ({len(done)} of {len(comparison.seeds)} seeds)"
        cells = [mean_std([result["common"][name] for result in done], DECIMALS[name]) for name in MEASURES]
        federated = comparison.rows[row].kind == "federated"
        closed = _closed(seeds, ends) if federated and all(ends.values()) else []
        told = [training for result in done for training in result["trained"]]
        sent = [sum(each[way] for each in told) / len(done) / 1e6 for way in ("bytes_up", "bytes_down")]
        seconds = [sum(told["seconds"] for told in result["trained"]) for result in done]
        share = f"{np.mean(closed):.0%}" if closed else ""
        sent = ", ".join(f"{megabytes:.1f}" for megabytes in sent) if federated else ""
        least = mean_std([worst(result) for result in done], 2)
        rows.append([title, *cells, least, share, sent, mean_std(seconds, 0)])
        if all("own" in result for result in done):
            own = [result["own"] for result in done]
            cells = [mean_std([_over_parts(parts, name) for parts in own], DECIMALS[name]) for name in MEASURES]
            least = [min(part["SI_SDR"] for part in parts.values()) for parts in own]
            title = f"{row}, each part with its silo's own norms"
            rows.append([title, *cells, mean_std(least, 2), "", "", ""])
    return markdown.table(_HEADINGS, rows)


def worst(result):
    """Return the SI_SDR of the silo whose part of the test set came out worst."""
    return min((part["SI_SDR"] for part in result["parts"].values() if part), default=float("nan"))


def _over_parts(parts, name):
    counts = [part["utterances"] for part in parts.values()]
    return float(np.average([part[name] for part in parts.values()], weights=counts))


def _kind(comparison, results, kind):
    """Return seed to result of the row of a kind; an empty dict where it is not complete."""
    rows = [row for row in results if comparison.rows[row].kind == kind]
    return results[rows[0]] if rows and len(results[rows[0]]) == len(comparison.seeds) else {}


def _paired(first, second, name):
    """Return differences over the seeds that both have; of the worst silo's SI_SDR where ``name`` is None."""

    def value(result):
        return worst(result) if name is None else result["common"][name]

    return [value(first[seed]) - value(second[seed]) for seed in first if seed in second]


def _closed(seeds, ends):
    """Return, for each seed, the share of the way from the mean silo alone to central training."""
    low = np.mean([result["common"]["SI_SDR"] for result in ends["alone"].values()])
    high = np.mean([result["common"]["SI_SDR"] for result in ends["central"].values()])
    return [(result["common"]["SI_SDR"] - low) / (high - low) for result in seeds.values()]


def _histories(folders, row, seeds):
    """Return the rounds of each finished training of a row: list of lists of entries."""
    exps = [folders.of(row, seed) / told["exp"] for seed, result in seeds.items() for told in result["trained"]]
    return [history for history in (read_jsonl(path / "rounds.jsonl") for path in exps) if history]


def _draw_scores(path, comparison, folders, results):
    """Draw the development score over rounds, mean over seeds (and, of silos alone, over silos), a line each row."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axis, colours = figure.subplots(), colormaps["tab20"].colors
    for place, (row, seeds) in enumerate(results.items()):
        scores = [[entry["dev_SI_SNR"] for entry in history] for history in _histories(folders, row, seeds)]
        length = min(map(len, scores))
        mean = np.mean([score[:length] for score in scores], axis=0)
        style = "-" if comparison.rows[row].kind == "federated" else "--"
        axis.plot(range(1, length + 1), mean, style, color=colours[place % len(colours)], label=row, linewidth=1.5)
    axis.set_xlabel("round")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel("SI-SNR on the development set (dB)")
    axis.legend(fontsize=8, ncols=2)
    save_figure(figure, path)


def _draw_alphas(path, comparison, folders, results):
    """Draw every silo's weight over rounds, mean over seeds, a panel each way of weighing; False if there is none."""
    from matplotlib.figure import Figure

    default = comparison.federated.get("strategy", "examples")
    rows = {}  # the first row of each strategy stands for it
    for row in results:
        if comparison.rows[row].kind == "federated":
            rows.setdefault(comparison.rows[row].federated.get("strategy", default), row)
    if not rows:
        return False
    figure = Figure(figsize=(2.6 * len(rows) + 0.8, 3.4), layout="constrained")
    axes = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axis, (strategy, row) in zip(axes, rows.items()):
        weights = {}
        for history in _histories(folders, row, results[row]):
            for entry in history:
                for silo, told in entry["silos"].items():
                    weights.setdefault(int(silo), {}).setdefault(entry["round"], []).append(told["alpha"])
        for silo, rounds in sorted(weights.items()):
            means = [np.mean(values) for values in rounds.values()]
            axis.plot(list(rounds), means, label=f"silo {silo}", linewidth=1.5)
        axis.set_title(strategy, fontsize=10)
        axis.set_xlabel("round")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylim(0, None)  # of all panels
    axes[0].set_ylabel("weight of the silo, α")
    axes[-1].legend(fontsize=8)
    save_figure(figure, path)
    return True
