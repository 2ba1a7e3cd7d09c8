"""The page: data of experiments in one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from sase.atomic import write_text
from sase.errors import InputError
from sase.jsonfile import nan_to_null
from sase.metrics.measures import MEASURES, measures_in, title_of
from sase.report.curves import merged
from sase.report.experiment import LABELS, Experiment, SetScores, differences, read_experiments
from sase.report.sound import Key, Sounds, by_quality, collect, has_sound

SCRIPTS = ("dom.js", "rows.js", "table.js", "player.js", "curves.js", "federation.js", "main.js")
_NOTE_BYTES = 1000  # for the sentence about the sound
RULE = "spread evenly from the worst to the best {measure}, both included"


def write_page(
    folders: Sequence[str | Path],
    out: str | Path,
    data_dirs: Sequence[str | Path] = (),
    unprocessed: str | Path | None = None,
    limit_mb: float = 20.0,
    log: Callable[[str], object] = print,
    reload_s: float | None = None,
) -> dict[str, Any]:
    """Write a page about experiments, side by side; return the data in it.

    Args:
        folders, data_dirs, unprocessed: as for :func:`sase.report.experiment.read_experiments`.
        out: the HTML file.
        limit_mb: size of the file up to which it contains sound, in MB.
        log: called with a line for each file that cannot be read, and with the path of the page.
        reload_s: after so many seconds an open page reloads itself; None for never.

    Raises:
        InputError: a folder is no experiment's, or ``out`` is a folder.
    """
    if Path(out).is_dir():
        raise InputError(f"{out}: is a folder; name a file, such as {Path(out) / 'report.html'}")
    experiments = read_experiments(folders, data_dirs, unprocessed)
    data = page_data(experiments)
    data["sounds"], data["sound_note"], data["reload_s"] = [], "", reload_s
    room = round(limit_mb * 1e6) - len(_page(data).encode()) - _NOTE_BYTES
    _add_sounds(data, experiments, room, log)
    write_text(out, _page(data))
    log(f"{out}: written")
    return data


def page_data(experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Return everything that the page shows but for the sound, as JSON can hold it."""
    sets = {name: _sets(experiments, name) for name in sorted({name for each in experiments for name in each.sets})}
    every = [one for found in sets.values() for one in found if one is not None]
    rows = [values for one in every for table in (one.values, one.unprocessed) for values in table.values()]
    measures = measures_in({name for row in rows for name in row})
    return {
        "title": ", ".join(each.name for each in experiments),
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "measures": [
            {"name": title_of(name), "decimals": MEASURES[name].decimals, "drawn": MEASURES[name].drawn}
            for name in measures
        ],
        "experiments": [
            {"name": each.name, "notes": each.notes, "configs": each.configs, "federation": each.federation}
            for each in experiments
        ],
        "sets": list(sets),
        "rows": [row for name, found in sets.items() for row in _rows(name, found, measures)],
        "charts": merged(chart for each in experiments for chart in each.charts),
        "differences": [[key, list(map(_shown, values))] for key, values in differences(experiments)],
    }


def _sets(experiments: Sequence[Experiment], name: str) -> list[SetScores | None]:
    return [each.sets.get(name) for each in experiments]


def _rows(name: str, found: Sequence[SetScores | None], measures: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per utterance of a set: its labels, the unprocessed scores, and those of each experiment."""
    known = [one for one in found if one is not None]
    rows = []
    for utt in sorted({utt for one in known for utt in one.utts}):
        labels = {kind: value for one in reversed(known) for kind, value in one.labels.get(utt, {}).items()}
        unprocessed = next((one.unprocessed[utt] for one in known if utt in one.unprocessed), None)
        rows.append(
            {
                "utt": utt,
                "set": name,
                **{kind: labels.get(kind) for kind in LABELS},
                "unprocessed": _values(unprocessed, measures),
                "scores": [_values(one.values.get(utt) if one else None, measures) for one in found],
                "failed": [one.failed.get(utt) if one else None for one in found],
            }
        )
    return rows


def _values(row: dict[str, float | None] | None, measures: Sequence[str]) -> list[float | None] | None:
    return None if row is None else [row.get(name) for name in measures]


def _add_sounds(data: dict[str, Any], experiments: list[Experiment], room: int, log: Callable[[str], object]) -> None:
    """Add the sound of as many utterances as fit, and the sentence that says which."""
    keys: list[Key] = [(row["set"], row["utt"]) for row in data["rows"]]
    heard = [key for key in keys if has_sound(experiments, key)]
    column = next((number for number, measure in enumerate(data["measures"]) if measure["drawn"]), None)
    quality: dict[Key, float] = {}
    for key, row in zip(keys, data["rows"]):
        scored = next((values for values in row["scores"] if values is not None), None)
        if column is not None and scored is not None and scored[column] is not None:
            quality[key] = scored[column]
    sounds = collect(experiments, by_quality(heard, quality), room, log)
    number_of = {key: number for number, key in enumerate(keys)}
    data["sounds"] = [
        {"row": number_of[key], "signals": signals}
        for key, signals in sorted(sounds.signals.items(), key=lambda item: number_of[item[0]])
    ]
    measure = data["measures"][column]["name"] if quality and column is not None else ""
    data["sound_note"] = _sound_note(sounds, len(keys), len(heard), measure)


def _sound_note(sounds: Sounds, utterances: int, with_sound: int, measure: str) -> str:
    if not with_sound:
        return "There is no sound yet."
    text = f"{len(sounds.signals)} of {utterances} utterances have sound here"
    if sounds.left_out:
        rule = RULE.format(measure=measure) if measure else "spread evenly over the list"
        text += f", {rule}; {sounds.left_out} were left out for the size of the page (--limit-mb)"
    if sounds.unreadable:
        (first, reason), *_ = sounds.unreadable.items()
        text += f"; {len(sounds.unreadable)} could not be read, the first {first}: {reason}"
    return text + "."


def _page(data: dict[str, Any]) -> str:
    """Return the HTML file. Its policy allows no address, and no script and style but its own."""
    style, script = _source("style.css"), "".join(map(_source, SCRIPTS))
    parts = {
        "policy": f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'",
        "title": html.escape(data["title"]),
        "style": style,
        "data": _json(data),
        "script": script,
    }
    text = _source("index.html")
    before, *pieces = text.split("{{")
    filled = [piece.partition("}}") for piece in pieces]
    return before + "".join(parts[name.strip()] + after for name, _, after in filled)


def _json(data: dict[str, Any]) -> str:
    """Return JSON for a script element: without ``<``, no text can end the element or begin a comment."""
    text = json.dumps(nan_to_null(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _shown(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _source(name: str) -> str:
    return (resources.files("sase.report") / "page" / name).read_text(encoding="utf-8")
