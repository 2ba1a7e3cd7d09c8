"""Batches: whatever happens to one item is that item's, unless it happens to all."""

import errno
import os

import numpy as np
import pytest
import soundfile

from helpers.audio import noise
from helpers.dumps import dump_all, make_set
from sase import audio
from sase.atomic import remove_ended_leftovers
from sase.batch import Failures
from sase.bin import decode, enhance, score
from sase.data import dump as dump_module
from sase.enhancer import Enhancer
from sase.errors import DiskFullError, InputError
from sase.evaluation import decoding, scoring
from sase.locking import output_lock
from sase.processes import folder_lock


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputError("no\nsound"), "no sound"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x.wav"), "[Errno 36] File name too long: 'x.wav'"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
        (MemoryError(), "MemoryError"),
        (ZeroDivisionError("by 0"), "ZeroDivisionError: by 0"),
    ],
)
def test_an_exception_is_the_failure_of_its_item(error, reason):
    lines, done = [], []
    failures = Failures(lines.append)
    for item in "abc":
        with failures.of(item):
            if item == "b":
                raise error
            done.append(item)
    assert done == ["a", "c"]
    assert len(failures) == 1
    assert failures.reasons["b"].startswith(reason)
    assert lines == [f"b: {failures.reasons['b']}"]
    assert "\n" not in lines[0]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        DiskFullError("a.wav: cannot be written"),
        ModuleNotFoundError("No module named 'pesq'", name="pesq"),
        KeyboardInterrupt(),
    ],
)
def test_what_meets_every_item_ends_the_batch(error):
    failures = Failures(print)
    with pytest.raises(type(error)), failures.of("a"):
        raise error
    assert not failures


def call(monkeypatch, command, *words):
    monkeypatch.setattr("sys.argv", ["sase", *map(str, words)])
    return command.main()


def test_enhance_does_the_rest_whatever_happens_to_one(tmp_path, monkeypatch, capsys, model):
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c", "d", "x" * 240):
        audio.write(tmp_path / "short.wav", noise(1600), 16000)
        os.replace(tmp_path / "short.wav", tmp_path / f"in/{name}.wav")
    (tmp_path / "out/b.wav").mkdir(parents=True)  # a folder in place of the output
    enhance_file = Enhancer.enhance_file

    def fail_for_c(self, source, target, on_block=None, **options):
        if source.name == "c.wav":
            raise RuntimeError("an operator\nfailed")
        return enhance_file(self, source, target, on_block, **options)

    monkeypatch.setattr(Enhancer, "enhance_file", fail_for_c)
    with pytest.raises(InputError, match="2 of 5 failed"):
        call(monkeypatch, enhance, tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    for name in ("a", "d", "x" * 240):
        assert soundfile.info(tmp_path / f"out/{name}.wav").frames == 1600
    lines = sorted(line for line in capsys.readouterr().err.splitlines() if line.startswith("sase enhance: "))
    assert len(lines) == 2
    expected = ("b.wav", "Is a directory"), ("c.wav", "RuntimeError: an operator failed")
    for line, (name, reason) in zip(lines, expected):
        assert f"{name}: " in line
        assert reason in line
    assert not list((tmp_path / "out").glob(".*"))


def test_enhance_removes_what_a_killed_one_left_but_not_what_another_is_writing(tmp_path, monkeypatch, model):
    audio.write(tmp_path / "in.wav", noise(1600), 16000)
    ended, active = tmp_path / ".a.4194400.partial.wav", tmp_path / f".b.{os.getpid()}.partial.wav"
    for path in (ended, active, tmp_path / ".partial.notes"):
        path.write_bytes(b"")
    call(monkeypatch, enhance, tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--model", model)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == [active.name, ".partial.notes"]
    remove_ended_leftovers(tmp_path / "missing")


@pytest.fixture
def dumped(tmp_path):
    data = make_set(tmp_path, {f"p1_{i:03d}": 16000 for i in range(3)}, rate=16000)
    dump_all(data, tmp_path / "dump/tt")
    return tmp_path / "dump/tt"


def test_dump_decode_and_score_do_the_rest(tmp_path, dumped, monkeypatch, capsys, model):
    broken = "p1_001"
    read_pair = dump_module._read_pair

    def fail(source, utt, *arguments):
        return read_pair(source, utt, *arguments) if utt != broken else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(dump_module, "_read_pair", fail)
        assert len(dump_all(tmp_path / "data/tr", tmp_path / "dump/tr")) == 2
    (tmp_path / f"exp/enhanced_tt/wav/{broken}.wav").mkdir(parents=True)
    options = ("--model", model, "--data", dumped, "--out", tmp_path / "exp/enhanced_tt")
    with pytest.raises(InputError, match="1 of 3 utterances failed"):
        call(monkeypatch, decode, *options)
    assert f"{broken}: [Errno 21] Is a directory" in capsys.readouterr().out
    (tmp_path / f"exp/enhanced_tt/wav/{broken}.wav").rmdir()
    call(monkeypatch, decode, *options)

    def measure(clean, enhanced, rate, measures):
        if measured.append(0) or len(measured) == 2:
            raise FloatingPointError("underflow")
        return dict.fromkeys(measures, 1.0)

    measured = []
    monkeypatch.setattr(scoring, "evaluate", measure)
    pairs = scoring.data_pairs(dump_module.read_source(dumped).tables, tmp_path / "exp/enhanced_tt")
    scores = scoring.score_pairs(pairs, log=lambda line: None)
    assert sorted(scores.values) == ["p1_000", "p1_002"]
    assert scores.failed == {broken: "FloatingPointError: underflow"}


def test_one_writer_at_a_time_for_training_decoding_and_scoring(tmp_path, dumped, monkeypatch, model):
    exp, out = tmp_path / "exp", tmp_path / "exp/enhanced_tt"
    options = ("--model", model, "--data", dumped, "--out", out)
    with folder_lock(exp):  # as a training does
        for command in (decode, score):
            which = options if command is decode else ("--data", dumped, "--enhanced", out)
            with pytest.raises(InputError, match="exp: locked by another process"):
                call(monkeypatch, command, *which)
    with output_lock(out, job=1):
        call(monkeypatch, decode, *options, "--nj", 2, "--job", 2)
        for words in (("--nj", 2, "--job", 1), ("--nj", 2, "--finish"), ()):
            with pytest.raises(InputError, match="enhanced_tt: locked by another process"):
                call(monkeypatch, decode, *options, *words)
        with pytest.raises(InputError, match="exp: locked"), folder_lock(exp):
            pass
    call(monkeypatch, decode, *options)
    assert decoding.finish(Enhancer.from_pretrained(model), dumped, out) == 3
    with output_lock(out / "scoring", within=2), pytest.raises(InputError, match="enhanced_tt: locked"):
        call(monkeypatch, decode, *options)
    assert np.isfinite(audio.read(out / "wav/p1_000.wav")[0]).all()
