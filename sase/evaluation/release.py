"""Release an experiment's weights: a safetensors file and its model card, filled in from the recorded results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sase import jsonfile, pretrained, yamlfile
from sase.atomic import write_text
from sase.config import read_yaml
from sase.errors import InputError
from sase.evaluation.results import SUMMARY, breakdown_lines, table
from sase.model import load_model
from sase.profiling import profile, with_unit
from sase.textfile import read_text


def release(
    exp: str | Path, scoring_dir: str | Path, name: str, notes: str | Path, out: str | Path = pretrained.FOLDER
) -> tuple[Path, Path]:
    """Write ``<name>.safetensors`` and ``<name>.md``, the card; return their paths.

    Args:
        exp: the experiment's folder, with best.pt, config.yaml and history.jsonl. If ``init`` of its config names
            another experiment, relative to the working directory, the card describes both trainings.
        scoring_dir: the scores of the test set from stage 5, with summary.json.
        name: of the weights.
        notes: a Markdown file to end the card with: data, licences, limitations.
        out: the folder to write to.

    Raises:
        InputError: a file is missing.
    """
    if Path(name).name != name:
        raise InputError(f"--name {name}: must be the name of a file, without a folder")
    exp, summary = Path(exp), Path(scoring_dir) / SUMMARY
    for path in (exp / "best.pt", exp / "config.yaml", exp / "history.jsonl", summary, Path(notes)):
        if not path.is_file():
            raise InputError(f"{path}: not found; train, decode and score first (stages 3 to 5)")
    model = load_model(exp / "best.pt")
    text = card(
        name,
        profile(model),
        [_training(folder) for folder in _lineage(exp)],
        jsonfile.read(summary),
        read_text(notes),
    )
    weights = Path(out) / f"{name}.safetensors"
    pretrained.save(model, weights)
    write_text(weights.with_suffix(".md"), text)
    return weights, weights.with_suffix(".md")


def _lineage(exp: Path) -> list[Path]:
    """Return the folders of the trainings that led to an experiment's weights, in order."""
    folders = [exp]
    while (init := read_yaml(folders[0] / "config.yaml").get("init")) and (Path(init) / "history.jsonl").is_file():
        folders.insert(0, Path(init))
    return folders


def _training(exp: Path) -> tuple[str, list[dict[str, Any]]]:
    return (exp / "config.yaml").read_text(encoding="utf-8"), jsonfile.read_jsonl(exp / "history.jsonl")


def card(
    name: str,
    cost: Mapping[str, Any],
    trainings: Sequence[tuple[str, list[dict[str, Any]]]],
    summary: dict[str, Any],
    notes: str,
) -> str:
    """Return a model card.

    Args:
        name: of the weights.
        cost: of :func:`sase.profiling.profile`.
        trainings: in order, each initialised with the result of the one before: the text of config.yaml and the
            history, one mapping per epoch, as the trainer writes them.
        summary: of the test set, from stage 5.
        notes: Markdown to end with.
    """
    latency = "offline: it needs the whole signal"
    if cost["latency_s"] is not None:
        latency = f"causal, latency {1000 * cost['latency_s']:.0f} ms"
    kinds = [kind for kind in ("snr", "noise") if kind in summary["breakdowns"]]
    lines = [
        f"# {name}",
        "",
        f"Speech enhancement at {cost['sample_rate']} Hz; {with_unit(cost['parameters'])} parameters, "
        f"{with_unit(cost['macs_per_s'])} multiply-accumulates per second, {latency}.",
        "",
        "## Scores",
        "",
        "Means ± standard deviations over utterances; the recipe's RESULTS.md explains the measures.",
        "",
        *table(summary),
        "",
    ]
    for kind in kinds:
        lines += [*breakdown_lines(kind, summary["breakdowns"][kind]), ""]
    lines += ["## Training", ""]
    for number, (config, history) in enumerate(trainings):
        lines += [*_training_lines(config, history, "" if number == 0 else "Then, starting from these weights: "), ""]
    return "\n".join([*lines, notes.rstrip(), ""])


def _training_lines(config: str, history: list[dict[str, Any]], beginning: str) -> list[str]:
    data, best = yamlfile.parse(config, "config.yaml")["data"], [epoch for epoch in history if epoch["best"]]
    if not best:
        raise InputError("no epoch of this experiment was selected on the development set: all its scores are NaN")
    chosen = best[-1]
    hours = history[-1]["steps"] * data["batch_size"] * data["segment_s"] / 3600
    development = ", ".join(f"{key[4:]} {value:g}" for key, value in chosen.items() if key.startswith("dev_"))
    return [
        f"{beginning}{history[-1]['steps']:,} steps of {data['batch_size']} segments of {data['segment_s']:g} s, "
        f"{hours:.0f} h of mixtures. Epoch {chosen['epoch']} of {len(history)} was selected on the development set: "
        f"{development}. The whole configuration:",
        "",
        "```yaml",
        config.rstrip(),
        "```",
    ]
