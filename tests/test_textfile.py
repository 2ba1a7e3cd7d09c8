"""Text that people edit, and folders that they link: any system's files are read the same, or named."""

import os
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from sase import audio
from sase.data import datadir, mixtures
from sase.data.corpora import commonvoice, folders, voicebank_demand
from sase.endpoints import resolve_endpoint
from sase.errors import InputError
from sase.evaluation import scoring, shards
from sase.evaluation.provenance import facts_of
from sase.federated.onboarding import read_membership
from sase.filetree import files_below
from sase.outputs import plan_outputs
from sase.textfile import read_text

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é_001") for form in ("NFC", "NFD"))
EDITORS = {  # what they make of a text
    "windows": lambda text: ("\ufeff" + text.replace("\n", "\r\n")).encode(),
    "old mac": lambda text: text.replace("\n", "\r").encode(),
    "mark": lambda text: ("\ufeff" + text).encode(),
    "no end": lambda text: text.rstrip("\n").encode(),
}


@pytest.fixture(params=EDITORS)
def edit(request):
    """Rewrite a file as an editor does."""

    def rewrite(path):
        path.write_bytes(EDITORS[request.param](path.read_text(encoding="utf-8")))
        return path

    return rewrite


def test_marks_and_line_ends_are_no_part_of_a_text(tmp_path):
    for number, edited in enumerate(EDITORS.values()):
        (tmp_path / f"{number}").write_bytes(edited("α β\nc\n"))
        assert read_text(tmp_path / f"{number}").rstrip("\n") == "α β\nc"
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin: not UTF-8 text \(byte 0\); save it as UTF-8"):
        read_text(tmp_path / "latin")


def test_a_list_of_mixtures_from_any_editor(tmp_path, edit):
    wanted = {"a_1": mixtures.Mixture("a", "/é.wav", "bus", "/n.wav", 0.0, 2.0, 1.0, 5.0, 0)}
    mixtures.write_mixtures(tmp_path / mixtures.FILE, wanted)
    assert mixtures.read_mixtures(edit(tmp_path / mixtures.FILE)) == wanted


def test_a_log_of_voicebank_from_any_editor(tmp_path, edit):
    (tmp_path / "log.txt").write_text("p1_001 bus 2.5\np1_002 cafe 5\n")
    edit(tmp_path / "log.txt")
    assert voicebank_demand._read_log(tmp_path, "log.txt") == {"p1_001": ("bus", 2.5), "p1_002": ("cafe", 5.0)}


@pytest.mark.parametrize("quoted", [False, True])
def test_a_table_of_common_voice_from_any_editor(tmp_path, edit, quoted):
    cells = [["client_id", "path", "sentence"], ["c1", "a.mp3", 'er sagte "ja"'], ["c2", "b.mp3", "x"]]
    if quoted:  # by a spreadsheet
        cells = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
    (tmp_path / "train.tsv").write_text("".join("\t".join(row) + "\n" for row in cells))
    rows = commonvoice._rows(edit(tmp_path / "train.tsv"))
    assert [(row["client_id"], row["path"]) for row in rows] == [("c1", "a.mp3"), ("c2", "b.mp3")]
    assert rows[0]["sentence"] == 'er sagte "ja"'


def test_a_data_directory_from_any_editor_is_fixed(tmp_path, edit):
    tables = datadir.Tables({"a_1": "/x y.wav", "a_2": "/2.wav"}, {"a_1": "/1", "a_2": "/2"}, {"a_1": "a", "a_2": "a"})
    datadir.write_data_dir(tmp_path, tables)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("wav.scp", "utt2spk"):
        edit(tmp_path / name)
    with pytest.raises(
        InputError, match=r"(byte order mark|line endings|newline).*'sase validate .* --fix' may repair"
    ):
        datadir.read_data_dir(tmp_path)
    assert datadir.fix_data_dir(tmp_path) == (2, 2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_keys_in_two_unicode_forms_are_named_and_made_one(tmp_path):
    lines = {"wav.scp": f"{COMPOSED} /1.wav\n", "spk1.scp": f"{DECOMPOSED} /1.wav\n", "utt2spk": f"{COMPOSED} s\n"}
    for name, line in lines.items():
        (tmp_path / name).write_text(line, encoding="utf-8")
    with pytest.raises(InputError, match=r"has 'e?\\u?x?[0-9a-z_]+' in another Unicode form than .*--fix"):
        datadir.read_data_dir(tmp_path)
    assert datadir.fix_data_dir(tmp_path) == (1, 1)
    assert list(datadir.read_data_dir(tmp_path).noisy) == [COMPOSED]


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.ones(800), 16000)


def test_files_are_paired_in_either_unicode_form(tmp_path):
    write(tmp_path / f"clean/{COMPOSED}.wav")
    write(tmp_path / f"enhanced/{DECOMPOSED}.wav")
    pairs, surplus = scoring.folder_pairs(tmp_path / "clean", tmp_path / "enhanced")
    assert (pairs[0].utt, surplus) == (COMPOSED, [])
    assert pairs[0].enhanced == str(tmp_path / f"enhanced/{DECOMPOSED}.wav")
    for kind in ("noisy", "clean"):
        write(tmp_path / f"{kind}_testset_wav" / f"{COMPOSED if kind == 'noisy' else DECOMPOSED}.wav")
    assert list(voicebank_demand._pairs(tmp_path, "testset")[0]) == [COMPOSED]


def test_linked_folders_are_searched_once_and_circles_end(tmp_path):
    write(tmp_path / "elsewhere/deep/b.wav")
    write(tmp_path / "in/a.wav")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in/linked")
    os.symlink(tmp_path / "in", tmp_path / "elsewhere/back")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in/twice")
    os.symlink(tmp_path / "nowhere", tmp_path / "in/broken.wav")
    found = [tmp_path / "in" / name for name in ("a.wav", "broken.wav", "linked/deep/b.wav")]
    assert files_below(tmp_path / "in") == found
    assert audio.sound_files(tmp_path / "in") == found
    outputs = [tmp_path / "out" / name for name in ("a.wav", "broken.wav", "linked/deep/b.wav")]
    assert plan_outputs([tmp_path / "in"], tmp_path / "out").pairs == list(zip(found, outputs))
    (tmp_path / "elsewhere/train.tsv").write_text("client_id\tpath\n")
    with pytest.raises(InputError, match=r"in/linked: dev\.tsv not found"):  # it is taken for Common Voice
        folders.prepare([tmp_path / "in"], [tmp_path / "in"], tmp_path / "data", log=lambda line: None)


def test_the_order_is_that_of_a_search_without_links(tmp_path):
    for name in ("b/1.wav", "b.wav", "a/z/2.wav", "a.1/3.wav", "B/4.wav"):
        write(tmp_path / name)
    assert files_below(tmp_path) == sorted(path for path in tmp_path.rglob("*") if path.is_file())


def test_scores_of_read_only_data_are_kept_with_those_of_the_experiment(tmp_path, monkeypatch):
    write(tmp_path / "noisy.wav")
    data = datadir.write_data_dir(
        tmp_path / "data",
        datadir.Tables({"a_1": str(tmp_path / "noisy.wav")}, {"a_1": str(tmp_path / "noisy.wav")}, {"a_1": "a"}),
    )
    (tmp_path / "enhanced").mkdir()
    write(tmp_path / "enhanced/a_1.wav")

    def place():
        return shards._tasks(data, tmp_path / "data", tmp_path / "enhanced", tmp_path / "out", None)[0][2]

    assert place() == tmp_path / "data/scoring_unprocessed"
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert place() == tmp_path / "out/scoring_unprocessed"
    (tmp_path / "data/scoring_unprocessed").mkdir()
    (tmp_path / "data/scoring_unprocessed/scores.json").write_text("{}")
    assert place() == tmp_path / "data/scoring_unprocessed"


def test_texts_that_other_programs_wrote_are_read_as_utf8(tmp_path):
    """A configuration of an experiment, the folder of a silo, a file with the address of a server."""
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "history.jsonl").write_text("")
    readers = {
        "fl.yaml": lambda: facts_of(tmp_path, SimpleNamespace(seconds=1.0), 1),
        "federation.json": lambda: read_membership(tmp_path),
        "server.txt": lambda: resolve_endpoint(tmp_path / "server.txt", 1.0),
    }
    for name, read in readers.items():
        (tmp_path / name).write_bytes(b"rounds: 1 # \xe9t\xe9\n")
        with pytest.raises(InputError, match=rf"{name}: not UTF-8 text \(byte 12\)"):
            read()
