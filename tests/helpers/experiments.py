"""Experiment folders as the recipe leaves them, with random scores and sound, for the page about them."""

import json
import math
import shutil
from dataclasses import dataclass

import numpy as np
import yaml

from sase import audio
from sase.data.datadir import Tables, write_data_dir, write_table
from sase.evaluation.scores import Scores, write_scores
from sase.metrics.measures import METRICS

RATE = 16000
HOSTILE = ("</script><img_src=x_onerror=alert(1)>", "a&b\"'<b>{{data}}")


@dataclass
class Expected:
    """What the page must show of an experiment."""

    utts: tuple
    labels: dict
    enhanced: dict
    unprocessed: dict
    sound: dict


def made_experiment(folder, name, utts=3, seed=0, federated=False, names=None, settings=None):
    """Return an experiment folder below ``folder`` with the set tt, whose paths are relative to it, and its content."""
    rng = np.random.default_rng(seed)
    utts = tuple(sorted(names or (f"p{number % 2}_{number:03d}" for number in range(utts))))
    exp = folder / "exp" / name
    (exp / "enhanced_tt/scoring").mkdir(parents=True)
    noises, snrs_db = ("bus", "café"), (2.5, 7.5, 12.5)
    labels = {utt: (f"p{n % 2}", noises[n % 2], snrs_db[n % 3]) for n, utt in enumerate(utts)}
    tables = {"noisy": {}, "clean": {}, "enhanced": {}}
    sound = {kind: {} for kind in tables}
    common = np.random.default_rng(99)  # of all experiments on the set
    for number, utt in enumerate(utts):
        time = np.arange(RATE // 2 + 100 * number) / RATE
        tone = 0.2 * np.sin(2 * np.pi * (300 + 100 * number) * time)
        noise = common.standard_normal(len(time))
        for kind, level in (("noisy", 0.05), ("clean", 0.0), ("enhanced", 0.01 * (1 + seed))):
            sound[kind][utt] = (tone + level * noise).astype(np.float32)
            stem = utt if names is None else str(number)
            place = f"exp/{name}/enhanced_tt/wav" if kind == "enhanced" else f"data/{kind}"
            tables[kind][utt] = f"{place}/{stem}.wav"
            audio.write(folder / tables[kind][utt], sound[kind][utt], RATE)
    parts = [{utt: of[part] for utt, of in labels.items()} for part in range(3)]
    if not (folder / "dump/tt").exists():
        write_data_dir(folder / "dump/tt", Tables(tables["noisy"], tables["clean"], *parts))
    write_table(exp / "enhanced_tt/spk1.scp", tables["enhanced"])
    unprocessed, enhanced = (
        {utt: {measure: float(x) for measure, x in zip(METRICS, 10 * g.random(len(METRICS)))} for utt in utts}
        for g in (common, rng)
    )
    if len(utts) > 2:
        enhanced[utts[2]]["STOI"] = math.nan
    kinds = dict(zip(("speaker", "noise", "snr"), parts))
    write_scores(exp / "enhanced_tt/scoring", Scores(enhanced, {}, 1.0), kinds)
    write_scores(folder / "dump/tt/scoring_unprocessed", Scores(unprocessed, {}, 1.0), kinds)
    (exp / "config.yaml").write_text(yaml.safe_dump(settings or {"seed": 17, "model": {"causal": True}}))
    if federated:
        (exp / "fl.yaml").write_text("strategy: sase\n")
        _write_lines(exp / "rounds.jsonl", _rounds())
    else:
        scores = [{"loss": 2.0, "dev_SI_SNR": 3.5, "best": True}, {"loss": 1.0, "dev_SI_SNR": 4.5, "best": True}]
        _write_lines(exp / "history.jsonl", [{"epoch": n, "steps": 60 * n, **each} for n, each in enumerate(scores, 1)])
    return exp, Expected(utts, labels, enhanced, unprocessed, sound)


def without_page_parts(path):
    """Delete a file or folder of an experiment."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _rounds():
    first = {"0": {"alpha": 0.25, "loss": 2.0, "bytes": 1e6}, "10": {"alpha": 0.75, "loss": 3.0, "bytes": 2e6}}
    second = {"0": {"alpha": 1.0, "loss": 1.5, "bytes": 1e6, "gain_db": 0.5}}
    return [
        {"round": 1, "silos": first, "bytes_up": 3e6, "bytes_down": 8e6, "dev_SI_SNR": 1.5, "best": True},
        {"round": 2, "silos": second, "bytes_up": 1e6, "bytes_down": 8e6, "dev_SI_SNR": math.nan, "best": False},
    ]


def _write_lines(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
