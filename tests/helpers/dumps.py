"""Data directories and dumps of a few synthetic utterances."""

import numpy as np
import soundfile

from sase import audio
from sase.data import datadir, dump

RATE = 16000


def dumped(folder, lengths=(9000, 20000, 4000), seed=0):
    """Dump a few pairs, each a tone of a different frequency in white noise; return the folder."""
    generator, noisy, clean = np.random.default_rng(seed), {}, {}
    for number, length in enumerate(lengths):
        utt = f"p{number}_001"
        tone = 0.2 * np.sin(2 * np.pi * (300 + 200 * number) * np.arange(length) / RATE)
        noisy[utt], clean[utt] = str(folder / f"noisy/{utt}.wav"), str(folder / f"clean/{utt}.wav")
        audio.write(clean[utt], tone, RATE)
        audio.write(noisy[utt], tone + 0.05 * generator.standard_normal(length), RATE)
    datadir.write_data_dir(folder / "data", datadir.Tables(noisy, clean, {utt: utt[:2] for utt in noisy}))
    dump.dump_set(folder / "data", folder / "dump")
    dump.join_shards(folder / "data", folder / "dump")
    return folder / "dump"


def make_set(folder, lengths, rate=48000, name="tr"):
    """Write a data directory of noise: {utt: samples at ``rate``}; return its path."""
    generator = np.random.default_rng(0)
    noisy, clean = {}, {}
    for utt, length in lengths.items():
        wav = 0.1 * generator.standard_normal((2, length))
        for kind, table, samples in zip(("noisy", "clean"), (noisy, clean), wav):
            path = folder / kind / f"{utt}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, rate, subtype="PCM_16")
            table[utt] = str(path)
    utt2spk = {utt: utt.split("_")[0] for utt in lengths}
    utt2noise = dict.fromkeys(list(lengths)[1:], "bus")
    datadir.write_data_dir(folder / "data" / name, datadir.Tables(noisy, clean, utt2spk, utt2noise))
    return folder / "data" / name


def dump_all(data, out, nj=1, **settings):
    """Dump a data directory in ``nj`` shards; return the dumped set."""
    for job in range(1, nj + 1):
        dump.dump_set(data, out, nj=nj, job=job, log=lambda line: None, **settings)
    dump.join_shards(data, out, nj=nj, log=lambda line: None, **settings)
    return datadir.read_data_dir(out)
