"""Release an experiment's weights: in the format of each engine, with a model card filled in from the results."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sase import jsonfile, pretrained, yamlfile
from sase.atomic import write_text
from sase.config import read_yaml, to_mapping
from sase.errors import InputError
from sase.evaluation.results import SUMMARY, breakdown_lines, table
from sase.export.native import UnsupportedError, export_native
from sase.export.onnx import export_onnx
from sase.model import load_model
from sase.profiling import profile, with_unit
from sase.textfile import read_text


def release(
    exp: str | Path, scoring_dir: str | Path, name: str, notes: str | Path, out: str | Path = pretrained.FOLDER
) -> list[Path]:
    """Write ``<name>.safetensors`` and ``<name>.md``, the card, and what :func:`refresh` makes; return all paths.

    Args:
        exp: the experiment's folder, with best.pt, config.yaml and history.jsonl. If ``init`` of its config names
            another experiment, relative to the working directory, the card describes both trainings, the second
            by what was changed in the configuration.
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
    return [weights, weights.with_suffix(".md"), *refresh(weights)]


def refresh(weights: Path) -> list[Path]:
    """Make the other formats of released weights again, and tie them together; return the paths of what was made.

    The card gets the fingerprint of the weights, the graph for ONNX Runtime the card and the fingerprint, and
    ``<name>.json`` the fingerprints of all files, besides cost and config of the network. An offline network has no
    graph, and one that the C core was not written for no ``.sase`` file; older ones are removed.

    Args:
        weights: a ``<name>.safetensors`` with its card.

    Raises:
        InputError: a bad file, a missing package, or a graph that differs from the network.
    """
    model, print_of_weights = pretrained.load(weights), pretrained.fingerprint(weights)
    text = _with_fingerprint(read_text(weights.with_suffix(".md")), print_of_weights)
    graph, native = (weights.with_suffix(pretrained.SUFFIXES[engine]) for engine in ("onnx", "native"))
    for path in (graph, native):
        path.unlink(missing_ok=True)
    write_text(weights.with_suffix(".md"), text)
    if model.config.causal:
        export_onnx(model, graph, text, print_of_weights)
    with contextlib.suppress(UnsupportedError):
        export_native(model, native)
    made = [path for path in (graph, native) if path.is_file()]
    files = {path.name: pretrained.fingerprint(path) for path in (weights, *made)}
    about = {"files": files, "cost": profile(model), "config": to_mapping(model.config)}
    jsonfile.write(weights.with_suffix(".json"), about, indent=1)
    return [*made, weights.with_suffix(".json")]


def _with_fingerprint(text: str, fingerprint: str) -> str:
    """Return a card with the line that names its weights, in place of an older one or before its first section."""
    line = f"SHA-256 of the weights: `{fingerprint}`"
    found = re.search(r"^SHA-256 of the weights: .*$", text, re.MULTILINE)
    if found:
        return text.replace(found[0], line, 1)
    return re.sub(r"^## ", f"{line}\n\n## ", text, count=1, flags=re.MULTILINE)


def _lineage(exp: Path) -> list[Path]:
    """Return the folders of the trainings that led to an experiment's weights, in order."""
    folders = [exp]
    while (init := read_yaml(folders[0] / "config.yaml").get("init")) and (Path(init) / "history.jsonl").is_file():
        folders.insert(0, Path(init))
    return folders


def _training(exp: Path) -> tuple[str, list[dict[str, Any]]]:
    return read_text(exp / "config.yaml"), jsonfile.read_jsonl(exp / "history.jsonl")


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
    previous = None
    for text, history in trainings:
        config = yamlfile.parse(text, "config.yaml")
        lines += [*_training_lines(text, config, previous, history), ""]
        previous = config
    return "\n".join([*lines, notes.rstrip(), ""])


def _training_lines(
    text: str, config: Mapping[str, Any], previous: Mapping[str, Any] | None, history: list[dict[str, Any]]
) -> list[str]:
    """Describe a training: its whole configuration or, if it is not the first, what was changed in the ``previous``."""
    data, best = config["data"], [epoch for epoch in history if epoch["best"]]
    if not best:
        raise InputError("no epoch of this experiment was selected on the development set: all its scores are NaN")
    chosen = best[-1]
    hours = history[-1]["steps"] * data["batch_size"] * data["segment_s"] / 3600
    development = ", ".join(f"{key[4:]} {value:g}" for key, value in chosen.items() if key.startswith("dev_"))
    beginning, shown = "", "The whole configuration:"
    if previous is not None:
        beginning, shown = "Then, starting from these weights: ", "Changed in its configuration:"
        text = yaml.safe_dump(_changes(previous, config), sort_keys=False, allow_unicode=True)
    return [
        f"{beginning}{history[-1]['steps']:,} steps of {data['batch_size']} segments of {data['segment_s']:g} s, "
        f"{hours:.0f} h of mixtures. Epoch {chosen['epoch']} of {len(history)} was selected on the development set: "
        f"{development}. {shown}",
        "",
        "```yaml",
        text.rstrip(),
        "```",
    ]


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration that differ from those of another one, without the path ``init``."""
    changes = {}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _changes(old, value)
            if value:
                changes[key] = value
        elif value != old and key != "init":
            changes[key] = value
    return changes
