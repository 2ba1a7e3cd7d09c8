"""Stage 4: enhance a dumped set into ``wav/UTT.wav`` and ``spk1.scp``, in shards, each of which can be gone on with.

``done/`` of the output folder holds one line for every utterance that was decoded: ``utt key stamp``, appended once its
file stands. The key stands for the weights and the input, the stamp for the file; a line that does not fit both any
more counts for nothing, so a killed job goes on where it was, and another model, input or number of shards does no
harm.
"""

import hashlib
import time
from pathlib import Path

from tqdm import tqdm

import sase
from sase import audio
from sase.atomic import remove_leftovers
from sase.config import to_mapping
from sase.data import dump
from sase.data.datadir import read_data_dir, shard, write_table
from sase.errors import InputError


def decode_shard(enhancer, data_dir, out, nj=1, job=1, log=print):
    """Enhance the utterances of shard ``job`` of ``nj`` that were not yet enhanced with this model.

    A bad utterance is told to ``log`` and counted, and the others go on.

    Args:
        enhancer: a :class:`sase.enhancer.Enhancer`.
        data_dir: a dumped set.
        out: the folder to write.
        nj, job: how many shards there are, and which this is, from 1.
        log: called with each line of the report.

    Raises:
        InputError: at the end, when utterances failed.
    """
    data, out = read_data_dir(data_dir), Path(out)
    utts, model = shard(data.utts, nj, job), model_key(enhancer.model)
    keys = {utt: _key(model, data.noisy[utt]) for utt in utts}
    done = _done(out)
    todo = [utt for utt in utts if done.get(utt) != keys[utt]]
    if todo:
        (out / "spk1.scp").unlink(missing_ok=True)  # it would lead to files of two models
        (out / "done").mkdir(parents=True, exist_ok=True)
    failed, seconds, began = 0, 0.0, time.monotonic()
    for utt in tqdm(todo, unit="utt", disable=None, leave=False):  # None: only on a terminal
        try:
            rate = dump.read_entry(data.noisy[utt]).sample_rate
            noisy = dump.read_wav(data.noisy[utt])
            audio.write(_wav(out, utt), enhancer.enhance(noisy, rate), rate)
        except InputError as error:
            failed += 1
            tqdm.write(f"{utt}: {' '.join(str(error).split())}")
            continue
        with open(out / "done" / str(job), "a", encoding="utf-8") as file:
            stamp = dump.file_fingerprint(_wav(out, utt))
            file.write(f"\n{utt} {keys[utt]} {stamp}")  # after a line that a kill has cut short
        seconds += len(noisy) / rate
    wall = time.monotonic() - began
    counts = f"{len(todo) - failed} utterances enhanced, {len(utts) - len(todo)} before, {failed} failed"
    log(f"shard {job} of {nj}: {counts}; {seconds:.1f} s of sound in {wall:.1f} s")
    if failed:
        raise InputError(f"{data_dir}: {failed} of {len(utts)} utterances failed, named above")


def finish(enhancer, data_dir, out):
    """Write ``spk1.scp`` when every utterance of the set was enhanced with this model; return how many there are.

    Args: as :func:`decode_shard`.

    Raises:
        InputError: utterances are missing or of another model.
    """
    data, out = read_data_dir(data_dir), Path(out)
    done, model = _done(out), model_key(enhancer.model)
    missing = [utt for utt in data.utts if done.get(utt) != _key(model, data.noisy[utt])]
    if missing:
        what = f"{len(missing)} of {len(data)} utterances are missing or of another model, the first {missing[0]}"
        raise InputError(f"{out}: {what}; decode them first")
    for utt in data.utts:
        expected, found = dump.read_entry(data.noisy[utt]).num_samples, audio.info(_wav(out, utt)).num_samples
        if expected != found:
            raise InputError(f"{_wav(out, utt)}: has {found} samples, not {expected}; delete it and decode again")
    remove_leftovers(out, out / "wav")
    write_table(out / "spk1.scp", {utt: _wav(out, utt) for utt in data.utts})
    return len(data)


def model_key(model):
    """Return a hash of a network's config, of all its weights and buffers, and of the version that runs it."""
    key = hashlib.sha256(f"{sase.__version__} {to_mapping(model.config)}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        key.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return key.hexdigest()


def _key(model, spec):
    return hashlib.sha256(f"{model} {spec} {dump.file_fingerprint(spec.rpartition(':')[0])}".encode()).hexdigest()


def _wav(out, utt):
    return out / "wav" / f"{utt}.wav"


def _done(out):
    """Return {utt: key} of the files that stand as they were written."""
    done = {}
    for path in sorted(out.glob("done/*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = line.split(" ")
            if len(fields) == 3 and fields[2] == dump.file_fingerprint(_wav(out, fields[0])):
                done[fields[0]] = fields[1]
    return done
