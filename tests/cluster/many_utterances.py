#!/usr/bin/env python3
"""Stages 1, 2, 4 and 5 on very many very short utterances: memory per process, CPU time of bookkeeping.

    PYTHONPATH=. tests/cluster/many_utterances.py > /tmp/page.md     100,000 utterances: several minutes
    PYTHONPATH=. tests/cluster/many_utterances.py --utterances 2000 --nj 4

Prints the page utils/UTTERANCES.md; exits with 1 when a process needs more than 1 GB, or bookkeeping (tables,
validation, joining shards, finding unfinished work) more than a minute. All utterances are dumped. One shard is decoded
and scored; the output of the others is generated in the same format, which suffices to measure bookkeeping. CPU time is
measured, which depends little on other load.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from sase import audio, completion
from sase.bench.stages import machine
from sase.data.datadir import Tables, read_data_dir, shard, write_data_dir
from sase.evaluation import decoding, shards
from sase.evaluation.scores import Scores
from sase.metrics.measures import METRICS
from sase.model import build_model, save_model

RATE = 16000
DURATION_S = 0.1
FILES, SPEAKERS, NOISES, SNRS_DB = 100, 100, 10, (0.0, 5.0, 10.0, 15.0)
SHARD_FACTOR = 5  # shards of decoding and of scoring per shard of dumping
MOST_MEMORY_MB = 1000
LONGEST_S = 60
# The process reports its own peak: the maximum that wait4() reports for a child includes the memory of its parent.
COMMAND = """
import atexit, re, runpy, sys
def report(path):
    open(path, "w").write(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
atexit.register(report, sys.argv.pop(1))
runpy.run_module("sase.bin.main", run_name="__main__")
"""


def make_corpus(folder, count):
    """Write sound files and a data directory with many utterances per file; return its path."""
    generator = np.random.default_rng(0)
    for number in range(FILES):
        clean, noise = 0.1 * generator.standard_normal((2, round(DURATION_S * RATE)))
        audio.write(folder / f"corpus/{number}_clean.wav", clean, RATE)
        audio.write(folder / f"corpus/{number}_noisy.wav", clean + 0.3 * noise, RATE)
    tables = {name: {} for name in ("noisy", "clean", "speaker", "noise", "snr")}
    for number in range(count):
        speaker = f"s{number % SPEAKERS:03d}"
        utt = f"{speaker}_{number:07d}"
        for kind in ("noisy", "clean"):
            tables[kind][utt] = str(folder / f"corpus/{number % FILES}_{kind}.wav")
        tables["speaker"][utt] = speaker
        tables["noise"][utt] = f"noise{number % NOISES}"
        tables["snr"][utt] = SNRS_DB[number % len(SNRS_DB)]
    return write_data_dir(folder / "data", Tables(*tables.values())).path


def generate_decoding(model, data_dir, out, nj):
    """Generate the output of decoding for shards 2 to ``nj``: links to a few sound files, and lines in done/."""
    data, key = read_data_dir(data_dir), decoding.model_key(model)
    sources = sorted((Path(data_dir).parent / "corpus").glob("*_noisy.wav"))
    for job in range(2, nj + 1):
        utts = shard(data.utts, nj, job)
        for number, utt in enumerate(utts):
            os.link(sources[number % FILES], decoding._wav(out, utt))
        keys = (
            (utt, decoding._key(key, data.noisy[utt]), completion.file_fingerprint(decoding._wav(out, utt)))
            for utt in utts
        )
        (out / "done" / str(job)).write_text("".join(f"\n{' '.join(fields)}" for fields in keys))


def generate_scores(data_dir, enhanced, out, nj):
    """Generate the output of scoring for shards 2 to ``nj``."""
    generator = np.random.default_rng(0)
    for _, pairs, folder in shards._tasks(read_data_dir(data_dir), data_dir, enhanced, out, None):
        for job in range(2, nj + 1):
            part = shards._shard(pairs, nj, job)
            values = {pair.utt: dict(zip(METRICS, generator.uniform(1, 4, len(METRICS)).tolist())) for pair in part}
            shards._write_record(shards._shard_path(folder, nj, job), part, Scores(values, {}, 1.0))


class Steps:
    """Runs commands, each in a new process, and records their time and memory."""

    def __init__(self, folder):
        self.rows, self.peak = [], folder / "peak"

    def run(self, what, *arguments, bookkeeping=True):
        """Run ``sase`` with these arguments."""
        command = [sys.executable, "-c", COMMAND, self.peak, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"sase {' '.join(map(str, arguments))} ended with {process.returncode}:\n{output}")
        row = {"step": what, "bookkeeping": bookkeeping}
        self.rows.append({**row, "s": usage.ru_utime + usage.ru_stime, "MB": int(self.peak.read_text()) / 1000})
        print(f"{what}: {self.rows[-1]['s']:.1f} s, {self.rows[-1]['MB']:.0f} MB", file=sys.stderr, flush=True)


def measure(folder, count, nj):
    """Return one dict per step: its name, CPU seconds, memory in MB, and whether it is only bookkeeping."""
    folder = Path(folder)
    steps = Steps(folder)
    dumped, enhanced = folder / "dump", folder / "exp/enhanced"
    data = make_corpus(folder, count)
    steps.run("1 validate the data directory", "validate", data)
    steps.run("1 validate it, and every sound file", "validate", data, "--audio", bookkeeping=False)
    for job in range(1, nj + 1):
        arguments = ("dump", "--data", data, "--out", dumped, "--nj", nj)
        steps.run(f"2 dump: shard {job} of {nj}", *arguments, "--job", job, bookkeeping=False)
    steps.run("2 dump: join the shards", *arguments, "--finish")
    steps.run("2 dump: a shard that was finished before", *arguments, "--job", 1)
    model, nj = build_model("mini"), SHARD_FACTOR * nj
    save_model(model, folder / "exp/best.pt")
    arguments = ("decode", "--model", folder / "exp/best.pt", "--data", dumped, "--out", enhanced, "--nj", nj)
    steps.run("4 decode: one shard", *arguments, "--job", 1, bookkeeping=False)
    generate_decoding(model, dumped, enhanced, nj)
    steps.run("4 decode: join the shards", *arguments, "--finish")
    steps.run("4 decode: a shard that was finished before", *arguments, "--job", nj)
    arguments = ("score", "--data", dumped, "--enhanced", enhanced, "--nj", nj)
    steps.run("5 score: one shard", *arguments, "--job", 1, bookkeeping=False)
    generate_scores(dumped, enhanced, enhanced / "scoring", nj)
    steps.run("5 score: join the shards, write the tables, draw", *arguments, "--finish")
    steps.run("5 score: a shard that was finished before", *arguments, "--job", 1)
    return steps.rows


def table(rows, nj):
    """Yield the lines of the table; all shards of dumping share one line with their maxima."""
    shards = [row for row in rows if row["step"].startswith("2 dump: shard ")]
    most = {name: max(row[name] for row in shards) for name in ("s", "MB")}
    most |= {"step": f"2 dump: {nj} shards, maximum per shard", "bookkeeping": False}
    yield "| step | CPU time, s | memory, MB |"
    yield "|---|---:|---:|"
    for row in (most if row is shards[0] else row for row in rows if row is shards[0] or row not in shards):
        kind = "" if row["bookkeeping"] else " (work, not bookkeeping)"
        yield f"| {row['step']}{kind} | {row['s']:.1f} | {row['MB']:.0f} |"


def heading(count, rows):
    """Yield the lines above the table."""
    peak, longest = max(row["MB"] for row in rows), max(row["s"] for row in rows if row["bookkeeping"])
    yield f"# {count:,} utterances"
    yield ""
    yield f"Generated by `tests/cluster/many_utterances.py` from {count:,} synthetic utterances of {DURATION_S} s. All"
    yield f"were dumped. Decoding and scoring used {SHARD_FACTOR} times as many shards; one was computed, the output"
    yield "of the others was generated in the same format. Bookkeeping means tables, validation, joining shards and"
    yield f"finding unfinished work. The limits are {MOST_MEMORY_MB:,} MB per process and {LONGEST_S} s of CPU time for"
    yield f"bookkeeping; the maxima measured were **{peak:.0f} MB** and **{longest:.0f} s**."
    yield ""
    yield f"Machine: {machine()}."
    yield ""


def faults(rows):
    """Return one line per exceeded limit."""
    large = [f"{row['step']}: {row['MB']:.0f} MB" for row in rows if row["MB"] > MOST_MEMORY_MB]
    return large + [f"{row['step']}: {row['s']:.0f} s" for row in rows if row["bookkeeping"] and row["s"] > LONGEST_S]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--nj", type=int, default=20, help="shards of dumping (%(default)s)")
    parser.add_argument("--dir", help="parent of the temporary corpus (default: the system folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        rows = measure(folder, args.utterances, args.nj)
    print("\n".join([*heading(args.utterances, rows), *table(rows, args.nj)]))
    sys.exit("\n".join(faults(rows)) or 0)


if __name__ == "__main__":
    main()
