"""VoiceBank+DEMAND: 28 (or 56) training speakers, test speakers p232 and p257, 48 kHz, DataShare 10283/2791.

Valentini-Botinhao et al., "Investigating RNN-based speech enhancement methods for noise-robust text-to-speech", 2016.
"""

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from sase import audio
from sase.atomic import atomic_folder
from sase.data import datadir, left_out
from sase.data.corpora.download import Archive, download_archives
from sase.errors import InputError
from sase.textfile import read_text

DEV_SPEAKERS = ("p226", "p287")  # as in ESPnet; the corpus has no development set
TRAINSETS = ("28spk", "56spk")
SETS = ("tr", "cv", "tt")
SUFFIXES = (".wav", ".flac")

_SERVER = "https://datashare.ed.ac.uk"
# name, bitstream UUID, sequence number in the old addresses, MD5 (if published)
_FILES = (
    ("clean_testset_wav", "dec213d3-bf57-4777-9663-c24bdce92d5e", 1, "34eb1c0ba7ef667e9b966866c542fc16"),
    ("noisy_testset_wav", "13c1bfbf-14a6-41db-9b41-8f7310f01ad5", 5, "fb1b86caa31e8ba5b506c0c64da9aab5"),
    ("clean_trainset_28spk_wav", "245452b6-6235-44b6-a6f9-e7eb19797769", 2, "d2d5a45ec32f8fcbf201bde0447e20ba"),
    ("noisy_trainset_28spk_wav", "ecb5a102-bb00-46d3-8af5-40c79823b837", 6, "1fca9e8bafb8cd069f6653c6d92f9e9c"),
    ("clean_trainset_56spk_wav", "386ac199-5d34-402f-8112-2a123577dd57", 3, "c351cbc9db30e41686c988c19f0e1475"),
    ("noisy_trainset_56spk_wav", "60506429-e89f-4ae5-a28f-da63238d11cb", 7, "b26382542716642b8f2845880af69cf0"),
    ("logfiles", "11185dc8-9cf1-405b-b858-35bd6a04aedd", 4, None),
)
_NUM_BYTES = {"clean_trainset_28spk_wav": 2_486_057_279, "noisy_trainset_28spk_wav": 2_830_205_201}
ARCHIVES = tuple(
    Archive(
        name=name,
        addresses=(
            f"{_SERVER}/server/api/core/bitstreams/{uuid}/content",
            f"{_SERVER}/bitstreams/{uuid}/download",
            f"{_SERVER}/bitstream/handle/10283/2791/{name}.zip?sequence={sequence}&isAllowed=y",
        ),
        md5=md5,
        num_bytes=_NUM_BYTES.get(name),
    )
    for name, uuid, sequence, md5 in _FILES
)


def download(target: str | Path, trainset: str = "28spk", remove_zips: bool = False) -> None:
    """Download, verify and unpack the official archives; existing parts are kept.

    Args:
        target: output folder for ``clean_testset_wav/``, ..., ``logfiles/``.
        trainset: "28spk" or "56spk".
        remove_zips: delete each archive once it is unpacked.
    """
    if trainset not in TRAINSETS:
        raise InputError(f"trainset must be one of {', '.join(TRAINSETS)}, got '{trainset}'")
    others = [name for name in TRAINSETS if name != trainset]
    download_archives([a for a in ARCHIVES if not any(name in a.name for name in others)], target, remove_zips)


def prepare(
    corpus_dir: str | Path,
    data_dir: str | Path,
    dev_speakers: Sequence[str] = DEV_SPEAKERS,
    trainset: str | None = None,
    skip_bad_test: bool = False,
    log: Callable[[str], object] = print,
) -> dict[str, datadir.DataDir]:
    """Write the data directories ``tr``, ``cv`` and ``tt``, all or none; return set to data directory.

    Args:
        corpus_dir: a folder with ``{clean,noisy}_{trainset_28spk,testset}_wav/``, at the top or one level down, of .wav
            or .flac files, and optionally the corpus' log files with ``utterance noise snr_db`` lines.
        data_dir: output; ``tr``, ``cv`` and ``tt`` in it are replaced.
        dev_speakers: the training speakers that form ``cv``.
        trainset: "28spk" or "56spk"; None: the first one found.
        skip_bad_test: leave utterances without partner out of the test set, and list them in its table ``left_out``.
        log: called with a line for everything that was skipped.

    Raises:
        InputError: missing files, an utterance of the test set without partner, or development speakers that do not
            fit.
    """
    corpus_dir = Path(corpus_dir)
    if not corpus_dir.is_dir():
        raise InputError(f"{corpus_dir}: no such corpus folder")
    found = (name for name in TRAINSETS if _find(corpus_dir, f"noisy_trainset_{name}_wav"))
    trainset = trainset or next(found, TRAINSETS[0])
    train, bad = _pairs(corpus_dir, f"trainset_{trainset}")
    for utt, reason in bad.items():
        log(f"{utt}: skipped: {reason}")
    test, bad_test = _pairs(corpus_dir, "testset")
    left_out.require_none(corpus_dir, bad_test, skip_bad_test, log)
    speakers = sorted({_speaker(utt) for utt in train})
    absent = [speaker for speaker in dev_speakers if speaker not in speakers]
    if absent or not dev_speakers:
        raise InputError(
            f"{corpus_dir}: development speakers not found: {' '.join(absent) or '(none given)'}; "
            f"choose with --dev-speakers from: {' '.join(speakers)}"
        )
    if set(dev_speakers) == set(speakers):
        raise InputError(f"{corpus_dir}: --dev-speakers lists every speaker; none remains for training")
    parts = {
        "tr": {utt: pair for utt, pair in train.items() if _speaker(utt) not in dev_speakers},
        "cv": {utt: pair for utt, pair in train.items() if _speaker(utt) in dev_speakers},
        "tt": test,
    }
    train_log = _read_log(corpus_dir, f"log_trainset_{trainset}.txt")
    logs = {"tr": train_log, "cv": train_log, "tt": _read_log(corpus_dir, "log_testset.txt")}
    with ExitStack() as stack:
        for name in SETS:
            folder = stack.enter_context(atomic_folder(Path(data_dir) / name))
            _write(folder, parts[name], logs[name])
            left_out.write(folder, bad_test if name == "tt" else {})
            datadir.validate_data_dir(folder)
    return {name: datadir.read_data_dir(Path(data_dir) / name) for name in SETS}


def _write(folder: Path, pairs: Mapping[str, tuple[str, str]], log: Mapping[str, tuple[str, float]]) -> None:
    known = {utt: log[utt] for utt in pairs if utt in log}
    tables = datadir.Tables(
        noisy={utt: noisy for utt, (noisy, _) in pairs.items()},
        clean={utt: clean for utt, (_, clean) in pairs.items()},
        utt2spk={utt: _speaker(utt) for utt in pairs},
        utt2noise={utt: noise for utt, (noise, _) in known.items()},
        utt2snr={utt: snr_db for utt, (_, snr_db) in known.items()},
    )
    datadir.write_data_dir(folder, tables)


def _speaker(utt: str) -> str:
    return utt.split("_")[0]


def _find(corpus_dir: Path, name: str) -> Path | None:
    """Return the folder of this name with sound files: at the top, one level down or nested in itself; else None."""
    for folder in (corpus_dir / name, corpus_dir / name / name, *sorted(corpus_dir.glob(f"*/{name}"))):
        if folder.is_dir() and any(entry.name.lower().endswith(SUFFIXES) for entry in os.scandir(folder)):
            return folder
    return None


def _sounds(corpus_dir: Path, name: str) -> dict[str, str]:
    """Return utterance to absolute path of a folder's sound files."""
    folder = _find(corpus_dir, name)
    if folder is None:
        raise InputError(f"{corpus_dir}: no folder {name}/ with {' or '.join(SUFFIXES)} files")
    sounds: dict[str, str] = {}
    for path in sorted(Path(os.path.abspath(folder)).iterdir()):
        if not audio.is_sound_file(path, SUFFIXES):
            continue
        utt = unicodedata.normalize("NFC", path.stem)  # noisy and clean may be from different systems
        if utt in sounds:
            raise InputError(f"{folder}: duplicate {utt}: {os.path.basename(sounds[utt])} and {path.name}")
        sounds[utt] = str(path)
    return sounds


def _pairs(corpus_dir: Path, part: str) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Return utterance to noisy and clean path, and utterance to reason of those that are in one folder only."""
    noisy, clean = (_sounds(corpus_dir, f"{kind}_{part}_wav") for kind in ("noisy", "clean"))
    pairs = {utt: (noisy[utt], clean[utt]) for utt in noisy if utt in clean}
    if not pairs:
        raise InputError(f"{corpus_dir}: noisy_{part}_wav and clean_{part}_wav have no utterance in common")
    single = {}
    for utt in sorted(noisy.keys() ^ clean.keys()):
        present, missing = ("noisy", "clean") if utt in noisy else ("clean", "noisy")
        single[utt] = f"is in {present}_{part}_wav, but not in {missing}_{part}_wav"
    return pairs, single


def _read_log(corpus_dir: Path, name: str) -> dict[str, tuple[str, float]]:
    """Return utterance to noise and SNR in dB of one of the corpus' log files; empty if there is none."""
    path = next((p for p in (corpus_dir / name, *sorted(corpus_dir.glob(f"*/{name}"))) if p.is_file()), None)
    log: dict[str, tuple[str, float]] = {}
    if path is None:
        return log
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            utt, noise, snr_db = line.split()
            log[utt] = (noise, float(snr_db))
        except ValueError:
            raise InputError(f"{path}:{number}: must be 'utterance noise snr_db', got '{line}'") from None
    return log
