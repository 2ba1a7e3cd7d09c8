"""From an experiment to weights that ship: a safetensors file and its model card, written by what was measured."""

from pathlib import Path

import yaml

from sase import jsonfile, pretrained
from sase.atomic import write_text
from sase.config import read_yaml
from sase.errors import InputError
from sase.evaluation.results import SUMMARY, breakdown_lines, table
from sase.model import load_model
from sase.profiling import profile, with_unit


def release(exp, scoring_dir, name, notes, out=pretrained.FOLDER):
    """Write ``<name>.safetensors`` and ``<name>.md``, the card; return their paths.

    Args:
        exp: the experiment's folder: best.pt, config.yaml, history.jsonl. Where ``init`` of its config names another
            experiment, seen from here, the card tells of both.
        scoring_dir: what stage 5 wrote of the test set, with summary.json.
        name: by which the weights will be known.
        notes: a Markdown file that the card ends with: the data and their licences, what the weights are bad at.
        out: the folder.

    Raises:
        InputError: something of it is missing.
    """
    exp, summary = Path(exp), Path(scoring_dir) / SUMMARY
    for path in (exp / "best.pt", exp / "config.yaml", exp / "history.jsonl", summary, Path(notes)):
        if not path.is_file():
            raise InputError(f"{path}: is missing; train, decode and score first (stages 3 to 5)")
    model = load_model(exp / "best.pt")
    text = card(
        name,
        profile(model),
        [_training(folder) for folder in _lineage(exp)],
        jsonfile.read(summary),
        Path(notes).read_text(encoding="utf-8"),
    )
    weights = Path(out) / f"{name}.safetensors"
    pretrained.save(model, weights)
    write_text(weights.with_suffix(".md"), text)
    return weights, weights.with_suffix(".md")


def _lineage(exp):
    """Return the folders of the trainings that made an experiment's weights, the first one first."""
    folders = [exp]
    while (init := read_yaml(folders[0] / "config.yaml").get("init")) and (Path(init) / "history.jsonl").is_file():
        folders.insert(0, Path(init))
    return folders


def _training(exp):
    return (exp / "config.yaml").read_text(encoding="utf-8"), jsonfile.read_jsonl(exp / "history.jsonl")


def card(name, cost, trainings, summary, notes):
    """Return a model card.

    Args:
        name: of the weights.
        cost: of :func:`sase.profiling.profile`.
        trainings: one after the other, each of which began with what the one before it had made: the text of
            config.yaml, and the history, one mapping an epoch, as the trainer writes them.
        summary: of the test set, as stage 5 writes it.
        notes: Markdown to end with.
    """
    latency = "offline: it hears the whole signal first"
    if cost["latency_s"] is not None:
        latency = f"causal, latency {1000 * cost['latency_s']:.0f} ms"
    kinds = [kind for kind in ("snr", "noise") if kind in summary["breakdowns"]]
    lines = [
        f"# {name}",
        "",
        f"Speech enhancement at {cost['sample_rate']} Hz; {with_unit(cost['parameters'])} parameters, "
        f"{with_unit(cost['macs_per_s'])} multiply-accumulates a second, {latency}.",
        "",
        "## Scores",
        "",
        "Means ± standard deviations over utterances; what they mean stands in the recipe's RESULTS.md.",
        "",
        *table(summary),
        "",
    ]
    for kind in kinds:
        lines += [*breakdown_lines(kind, summary["breakdowns"][kind]), ""]
    lines += ["## Training", ""]
    for number, (config, history) in enumerate(trainings):
        lines += [*_training_lines(config, history, "" if number == 0 else "Then, from there: "), ""]
    return "\n".join([*lines, notes.rstrip(), ""])


def _training_lines(config, history, beginning):
    data, chosen = yaml.safe_load(config)["data"], [epoch for epoch in history if epoch["best"]][-1]
    hours = history[-1]["steps"] * data["batch_size"] * data["segment_s"] / 3600
    development = ", ".join(f"{key[4:]} {value:g}" for key, value in chosen.items() if key.startswith("dev_"))
    return [
        f"{beginning}{history[-1]['steps']:,} steps of {data['batch_size']} segments of {data['segment_s']:g} s, "
        f"{hours:.0f} h of mixtures. Epoch {chosen['epoch']} of {len(history)} was chosen on the development set: "
        f"{development}. The whole configuration:",
        "",
        "```yaml",
        config.rstrip(),
        "```",
    ]
