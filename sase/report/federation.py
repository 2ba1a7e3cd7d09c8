"""What each silo contributed to a federation: whether it took part or failed, how much it sent, its own scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from sase.report.curves import Chart, read_lines

ROUNDS, TESTS = "rounds.jsonl", "silo_tests.jsonl"
_NAMED = re.compile(r"silo (\d+)\b")
_SCORE = re.compile(r"(global|own)/(.+)")
_ORDER = ("refused", "failed")  # in rounds.jsonl
_KINDS = {"global": "the global model", "own": "its personal norms"}


def federation(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    """Return what the silos of an experiment did so far; None if it is no federation or has no round yet.

    Args:
        folder: the experiment's.
        notes: receives a line for each damaged file.

    Returns:
        ``{"rounds": int, "silos": [...], "scores": [names]}``; each silo is ``{"silo", "rounds", "rejected", "failed",
        "weight" (mean over its rounds), "examples", "sent_mb", "reason" (of the last rejection or failure), "scores"
        (of its last test, in the order of the names, None where undefined)}``.
    """
    rounds = _rounds(read_lines(folder / ROUNDS, notes))
    if not rounds:
        return None
    tests = read_lines(folder / TESTS, notes)
    names = _score_names(tests)
    names_of_silos = {silo for entry in rounds for silo in _took_part(entry)}
    names_of_silos |= {silo for entry in rounds for kind in ("refused", "failed") for silo, _ in _blamed(entry, kind)}
    silos = [_silo(silo, rounds, tests, names) for silo in sorted(names_of_silos, key=int)]
    return {"rounds": len(rounds), "silos": silos, "scores": [_title(name) for name in names]}


def charts(folder: Path, name: str, notes: list[str]) -> list[Chart]:
    """Return charts of participation, of rejections and failures if there are any, and of the silos' own tests.

    Args:
        folder: of the experiment.
        name: of the experiment, for the titles.
        notes: receives a line for each damaged file.
    """
    rounds = _rounds(read_lines(folder / ROUNDS, notes))
    found = []
    if rounds:
        points = [[entry["round"], float(len(_took_part(entry)))] for entry in rounds]
        series = [{"name": name, "points": points, "best": None}]
        found.append({"title": "silos that took part", "x": "round", "series": series})
    for title, kind in (("replies rejected so far", "refused"), ("failures so far", "failed")):
        counts = [[silo for silo, _ in _blamed(entry, kind)] for entry in rounds]
        silos = sorted({silo for of in counts for silo in of}, key=int)
        sums = {silo: accumulate(float(of.count(silo)) for of in counts) for silo in silos}
        series = [_series(silo, zip((entry["round"] for entry in rounds), of)) for silo, of in sums.items()]
        if series:
            found.append({"title": f"{name}, silos: {title}", "x": "round", "series": series})
    tests = _rounds(read_lines(folder / TESTS, notes))
    for score in _score_names(tests):
        series = [_series(silo, _points(tests, silo, score)) for silo in _silos_of(tests)]
        series = [each for each in series if each["points"]]
        found.append({"title": f"{name}, silos: {_title(score)}, own test set", "x": "round", "series": series})
    return found


def _rounds(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries sorted by round; of a round that was repeated, the last one."""
    by_round = {entry["round"]: entry for entry in entries if isinstance(entry.get("round"), int)}
    return [by_round[number] for number in sorted(by_round)]


def _took_part(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {silo: of for silo, of in entry.get("silos", {}).items() if silo.isdecimal()}


def _blamed(entry: Mapping[str, Any], kind: str) -> list[tuple[str, str]]:
    """Return (silo, line) of each rejected reply or failure of a round that names a silo."""
    found = [(_NAMED.search(line), line) for line in entry.get(kind, []) if isinstance(line, str)]
    return [(match[1], line) for match, line in found if match]


def _silo(
    silo: str, rounds: Sequence[Mapping[str, Any]], tests: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Any]:
    records = [_took_part(entry)[silo] for entry in rounds if silo in _took_part(entry)]
    lines = {kind: [line for entry in rounds for who, line in _blamed(entry, kind) if who == silo] for kind in _ORDER}
    last = next(
        (line for entry in reversed(rounds) for k in _ORDER for who, line in _blamed(entry, k) if who == silo), ""
    )
    weights = [record["alpha"] for record in records if isinstance(record.get("alpha"), int | float)]
    scores: Mapping[str, Any] = next(
        (entry["silos"][silo] for entry in reversed(tests) if silo in entry.get("silos", {})), {}
    )
    return {
        "silo": int(silo),
        "rounds": len(records),
        "rejected": len(lines["refused"]),
        "failed": len(lines["failed"]),
        "weight": sum(weights) / len(weights) if weights else None,
        "examples": records[-1].get("examples") if records else None,
        "sent_mb": sum(record.get("bytes", 0) for record in records) / 1e6,
        "reason": last,
        "scores": [scores.get(name) for name in names],
    }


def _silos_of(tests: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({silo for entry in tests for silo in entry.get("silos", {}) if silo.isdecimal()}, key=int)


def _score_names(tests: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the scores in tests, such as ``global/SI_SDR``, in the order of their appearance."""
    names = (name for entry in tests for scores in entry.get("silos", {}).values() for name in scores)
    return [name for name in dict.fromkeys(names) if _SCORE.fullmatch(name) and not name.endswith("/utterances")]


def _title(score: str) -> str:
    kind, _, measure = score.partition("/")
    return f"{measure} of {_KINDS[kind]}"


def _points(tests: Iterable[Mapping[str, Any]], silo: str, score: str) -> list[tuple[int, Any]]:
    return [(entry["round"], entry["silos"][silo].get(score)) for entry in tests if silo in entry.get("silos", {})]


def _series(silo: str, points: Iterable[tuple[int, Any]]) -> dict[str, Any]:
    return {"name": f"silo {silo}", "points": [list(point) for point in points], "best": None}
