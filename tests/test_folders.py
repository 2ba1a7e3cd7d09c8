"""Any folders of speech and noise as lists of mixtures."""

import numpy as np
import pytest

from sase import audio
from sase.data.corpora.folders import prepare
from sase.data.dump import dump_set, join_shards
from sase.data.mixtures import read_mixtures
from sase.errors import InputError

RATE = 16000


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)

    def write(name, seconds=0.5):
        audio.write(folder / name, 0.1 * generator.standard_normal(int(seconds * RATE)), RATE)

    for speaker in range(20):
        for number in range(2):
            write(f"speech/s{speaker:02d}_{number}.wav")
    for number in range(3):
        write(f"speech/nameless/take{number}.flac", 8.0)
    for number in range(12):
        write(f"noise/saw_{number:02d}.wav", 0.2)
    write("noise/tap.ogg", 2.0)
    return folder


@pytest.mark.recipe
def test_no_speaker_and_no_noise_file_is_in_both_sets(sounds, tmp_path):
    sets = prepare([sounds / "speech"], [sounds / "noise"], tmp_path, generated=1, dev_speakers=5, dev_utterances=8)
    train, dev = ({getattr(m, what) for m in part.values()} for what in ("speaker",) for part in sets.values())
    assert len(dev) >= 4
    assert len(train) >= 15
    assert not train & dev
    assert "nameless" in train  # most of the speech: never left to choose by
    files = [{m.noise_file for m in part.values()} for part in sets.values()]
    assert not files[0] & files[1]
    assert "tap" in {m.noise for m in sets["tr"].values()}
    assert "tap" not in {m.noise for m in sets["cv"].values()}
    assert len(sets["cv"]) == 8
    assert len(sets["tr"]) == 33
    again = prepare([sounds / "speech"], [sounds / "noise"], tmp_path, generated=1, dev_speakers=5, dev_utterances=8)
    assert again == sets == {name: read_mixtures(tmp_path / name / "mixtures.tsv") for name in sets}
    dump_set(tmp_path / "cv", tmp_path / "dump")
    join_shards(tmp_path / "cv", tmp_path / "dump")
    assert (tmp_path / "dump/wav.scp").read_text().count("\n") == 8


@pytest.mark.parametrize(
    ("speech", "noise", "words"),
    [
        ("gone", "noise", "no such folder"),
        ("noise", "noise", "development speakers"),
        ("speech", "empty", "no sound files"),
    ],
)
def test_insufficient_input_is_rejected(sounds, tmp_path, speech, noise, words):
    (sounds / "empty").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=words):
        prepare([sounds / speech], [sounds / noise], tmp_path)
    assert not (tmp_path / "tr").exists()


@pytest.mark.recipe
def test_held_out_noises_are_in_neither_set(sounds, tmp_path):
    names = {}
    for held_out in ((), ("t*",), ("saw",)):
        sets = prepare([sounds / "speech"], [sounds / "noise"], tmp_path, generated=1, held_out=held_out)
        names[held_out] = {m.noise for part in sets.values() for m in part.values() if "generated" not in m.noise}
    assert names == {(): {"saw", "tap"}, ("t*",): {"saw"}, ("saw",): {"tap"}}
    with pytest.raises(InputError, match="--held-out: no noise named siren in the given folders"):
        prepare([sounds / "speech"], [sounds / "noise"], tmp_path, held_out=["tap", "siren"])
