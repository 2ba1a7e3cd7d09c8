"""Stage 4: enhance a dumped set into ``wav/UTT.wav`` and ``spk1.scp``, in shards that can be resumed.

``done/`` of the output folder holds a line for every decoded utterance, ``utt key stamp``, appended once its file is
written. The key is a fingerprint of the weights and the input, the stamp one of the file; a line that matches only one
of them is ignored. So a killed job resumes where it stopped, also with another number of shards, and nothing stale is
kept after a change of model or input.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

import sase
from sase import audio, completion
from sase.atomic import remove_leftovers
from sase.batch import Failures
from sase.config import to_mapping
from sase.data import arks
from sase.data.datadir import read_data_dir, shard, write_table
from sase.errors import InputError

if TYPE_CHECKING:
    from sase.enhancer import Enhancer
    from sase.model import SASE


def decode_shard(
    enhancer: Enhancer,
    data_dir: str | Path,
    out: str | Path,
    nj: int = 1,
    job: int = 1,
    log: Callable[[str], object] = print,
) -> None:
    """Enhance the utterances of shard ``job`` of ``nj`` that have not been enhanced with this model yet.

    A bad utterance is logged, counted and skipped.

    Args:
        enhancer: a :class:`sase.enhancer.Enhancer`.
        data_dir: a dumped set.
        out: the output folder.
        nj, job: the number of shards, and which of them to decode, from 1.
        log: called with each line of the report.

    Raises:
        InputError: at the end, if utterances failed.
    """
    data, out = read_data_dir(data_dir), Path(out)
    utts, model = shard(data.utts, nj, job), model_key(enhancer.model)
    keys = {utt: _key(model, data.noisy[utt]) for utt in utts}
    done = _done(out)
    todo = [utt for utt in utts if done.get(utt) != keys[utt]]
    if todo:
        (out / "spk1.scp").unlink(missing_ok=True)  # it would list files of two models
        (out / "done").mkdir(parents=True, exist_ok=True)
    failures, seconds, started = Failures(tqdm.write), 0.0, time.monotonic()
    for utt in tqdm(todo, unit="utt", disable=None, leave=False):  # None: only on a terminal
        with failures.of(utt):
            seconds += _decode(enhancer, data.noisy[utt], _wav(out, utt))
            with open(out / "done" / str(job), "a", encoding="utf-8") as file:
                # The newline comes first: a killed job may have left a truncated line.
                file.write(f"\n{utt} {keys[utt]} {completion.file_fingerprint(_wav(out, utt))}")
    wall = time.monotonic() - started
    counts = f"{len(todo) - len(failures)} utterances enhanced, {len(utts) - len(todo)} before, {len(failures)} failed"
    log(f"shard {job} of {nj}: {counts}; {seconds:.1f} s of audio in {wall:.1f} s")
    if failures:
        raise InputError(f"{data_dir}: {len(failures)} of {len(utts)} utterances failed, listed above")


def finish(enhancer: Enhancer, data_dir: str | Path, out: str | Path) -> int:
    """Write ``spk1.scp`` once every utterance has been enhanced with this model; return the number of utterances.

    Args: as :func:`decode_shard`.

    Raises:
        InputError: utterances are missing or were enhanced with another model.
    """
    data, out = read_data_dir(data_dir), Path(out)
    done, model = _done(out), model_key(enhancer.model)
    missing = [utt for utt in data.utts if done.get(utt) != _key(model, data.noisy[utt])]
    if missing:
        what = f"{len(missing)} of {len(data)} utterances are missing or of another model, the first {missing[0]}"
        raise InputError(f"{out}: {what}; decode them first")
    for utt in data.utts:
        expected, found = arks.read_entry(data.noisy[utt]).num_samples, audio.info(_wav(out, utt)).num_samples
        if expected != found:
            raise InputError(f"{_wav(out, utt)}: has {found} samples, not {expected}; delete it and decode again")
    remove_leftovers(out, out / "wav")
    write_table(out / "spk1.scp", {utt: str(_wav(out, utt)) for utt in data.utts})
    return len(data)


def model_key(model: SASE) -> str:
    """Return a fingerprint of a network's config, all its weights and buffers, and the version of this package."""
    key = hashlib.sha256(f"{sase.__version__} {to_mapping(model.config)}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        key.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return key.hexdigest()


def _decode(enhancer: Enhancer, spec: str, path: Path) -> float:
    """Enhance one ark entry into a sound file; return its duration in seconds."""
    rate = arks.read_entry(spec).sample_rate
    noisy = arks.read_wav(spec)
    audio.write(path, enhancer.enhance(noisy, rate), rate)
    return len(noisy) / rate


def _key(model: str, spec: str) -> str:
    return completion.fingerprint([f"{model} {spec} {completion.file_fingerprint(spec.rpartition(':')[0])}"])


def _wav(out: Path, utt: str) -> Path:
    return out / "wav" / f"{utt}.wav"


def _done(out: Path) -> dict[str, str]:
    """Return {utt: key} of the files that have not changed since they were written."""
    done = {}
    for path in sorted(out.glob("done/*")):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # a line may be truncated
            fields = line.split(" ")
            if len(fields) == 3 and fields[2] == completion.file_fingerprint(_wav(out, fields[0])):
                done[fields[0]] = fields[1]
    return done
