"""The curves of a training: losses and scores per epoch or round, and what each silo contributed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from sase import jsonfile
from sase.errors import InputError

_NO_CURVES = {"epoch", "round", "steps", "best", "silos"}
_OF_SILOS = {  # key of a silo's record: title
    "alpha": "weight",
    "loss": "loss",
    "gain_db": "gain in SI-SNR on the common set (dB)",
    "update_norm": "norm of the update",
    "bytes": "sent (MB)",
}
_TITLES = {"bytes_up": "traffic to the server (MB)", "bytes_down": "traffic to the silos (MB)"}
_SCALES = {"bytes": 1e-6, "bytes_up": 1e-6, "bytes_down": 1e-6}

Chart = dict[str, Any]


def read_lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Return the mappings of a JSON Lines file; a damaged file gives none and a note that says so."""
    try:
        return jsonfile.read_jsonl(path)
    except (InputError, OSError) as error:
        notes.append(str(error))
        return []


def charts(folder: Path, name: str, notes: list[str]) -> list[Chart]:
    """Return the charts of an experiment.

    Args:
        folder: the experiment's.
        name: of its curves.
        notes: receives a line for each damaged file.

    Returns:
        ``{"title", "x", "series": [{"name", "points": [[x, y], ...], "best": x or None}]}``; charts of the same title
        and ``x`` of several experiments belong into one. A value that is not finite interrupts its curve (None).
    """
    found = []
    for file, unit in (("history.jsonl", "epoch"), ("rounds.jsonl", "round")):
        entries = {entry[unit]: entry for entry in read_lines(folder / file, notes) if unit in entry}
        rows = [entries[number] for number in sorted(entries)]
        best = next((row[unit] for row in reversed(rows) if row.get("best")), None)
        for key in _keys(rows, _NO_CURVES):
            chart = {"title": _TITLES.get(key, _title(key)), "x": unit}
            found.append({**chart, "series": [_series(name, rows, unit, key, best)]})
        found += _silo_charts(rows, unit, name)
    return found


def _silo_charts(rows: list[dict[str, Any]], unit: str, name: str) -> list[Chart]:
    """Return a chart of each number that silos report, with a curve for each silo."""
    silos: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for silo, record in row.get("silos", {}).items():
            silos.setdefault(silo, []).append({unit: row[unit], **record})
    order = sorted(silos, key=lambda silo: (len(silo), silo))
    present = {key for records in silos.values() for record in records for key in record}
    return [
        {
            "title": f"{name}, silos: {title}",
            "x": unit,
            "series": [_series(f"silo {silo}", silos[silo], unit, key, None) for silo in order],
        }
        for key, title in _OF_SILOS.items()
        if key in present
    ]


def merged(all_charts: Iterable[Chart]) -> list[Chart]:
    """Return charts with those of the same title and ``x`` combined, in the order of their first appearance."""
    found: dict[tuple[str, str], Chart] = {}
    for chart in all_charts:
        key = chart["title"], chart["x"]
        if key in found:
            found[key] = {**chart, "series": [*found[key]["series"], *chart["series"]]}
        else:
            found[key] = chart
    return list(found.values())


def _keys(rows: Iterable[Mapping[str, Any]], without: set[str]) -> list[str]:
    numeric = (key for row in rows for key, value in row.items() if _is_number(value))
    return [key for key in dict.fromkeys(numeric) if key not in without]


def _series(name: str, rows: Iterable[Mapping[str, Any]], unit: str, key: str, best: int | None) -> dict[str, Any]:
    scale = _SCALES.get(key, 1)
    values = [(row[unit], row.get(key)) for row in rows]
    points = [[x, value * scale if _is_number(value) and math.isfinite(value) else None] for x, value in values]
    return {"name": name, "points": points, "best": best if key.startswith("dev_") else None}


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _title(key: str) -> str:
    return f"development {key[4:]}" + (" (dB)" if key.endswith("SNR") else "") if key.startswith("dev_") else key
