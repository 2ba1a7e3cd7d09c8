"""Recorded rooms: from folders of impulse responses over data directory and dump into training batches."""

import numpy as np
import pytest
import torch

from helpers.dumps import dumped
from sase import audio
from sase.data.dataset import PairSet
from sase.data.fingerprint import fingerprint_of_content, fingerprint_of_files
from sase.data.remix import DataConfig, Mixtures
from sase.data.rooms import aligned, dump_rooms, list_rooms, read_rooms, response
from sase.errors import InputError

RATE = 16000


def impulse_response(seed, delay=300, seconds=0.3, reflection=0.0):
    """Return silence, the direct sound at ``delay``, a reflection 10 ms later, and a decaying tail."""
    rng = np.random.default_rng(seed)
    wav = np.zeros(delay + round(seconds * RATE))
    tail = np.arange(len(wav) - delay)
    wav[delay:] = 0.05 * rng.normal(size=len(tail)) * 10 ** (-3 * tail / (0.2 * RATE))
    wav[delay] = -0.5
    wav[delay + 160] += reflection
    return wav


@pytest.fixture
def folder(tmp_path):
    for name in ("hall/big one_0", "hall/b_0", "stairs/b_0"):
        audio.write(tmp_path / f"rir/{name}.flac", impulse_response(len(name)), RATE)
    return tmp_path / "rir"


def test_a_response_begins_with_its_direct_sound():
    for reflection in (0.0, -0.7):  # a reflection that is 3 dB stronger
        room = aligned(impulse_response(0, reflection=reflection), RATE)
        assert len(room) == 0.3 * RATE
        assert np.abs(room).max() == pytest.approx(0.999)
        assert np.sign(room[0]) == -1
        assert np.abs(room[0]) > 0.6
    assert np.abs(np.diff(aligned(impulse_response(0, delay=0), RATE) - aligned(impulse_response(0), RATE))).max() < 0.4


def test_a_long_response_is_faded_out():
    room = aligned(np.ones(5 * RATE), RATE)
    assert len(room) == 2 * RATE
    assert room[: -RATE // 50] == pytest.approx(0.999)
    assert (np.diff(room[-RATE // 50 :]) < 0).all()
    assert room[-1] == 0.0


@pytest.mark.parametrize("wav", [np.zeros(100), np.zeros(0)])
def test_a_silent_response_is_refused(wav):
    with pytest.raises(InputError, match="silent"):
        aligned(wav, RATE)


def test_rooms_go_from_folders_to_a_dump(folder, tmp_path):
    (tmp_path / "data").mkdir()
    assert list_rooms([folder], tmp_path / "data") == 3
    assert [line.split()[0] for line in (tmp_path / "data/rooms").read_text().splitlines()] == [
        "hall_b_0",
        "hall_big_one_0",
        "stairs_b_0",
    ]
    dump = dumped(tmp_path / "set")
    before = fingerprint_of_files(PairSet(dump)), fingerprint_of_content(PairSet(dump))
    assert read_rooms(dump, RATE) == []
    assert dump_rooms(tmp_path / "data", dump, RATE) == 3
    pairs = PairSet(dump)
    expected = aligned(impulse_response(len("hall/b_0")), RATE)
    assert len(pairs.rooms) == 3
    np.testing.assert_allclose(response(pairs.rooms[0]), expected, atol=2e-4)  # a file and an ark of 16 bits
    assert fingerprint_of_files(pairs) != before[0]
    assert fingerprint_of_content(pairs) != before[1]
    written = (dump / "rooms.ark").stat().st_mtime_ns
    assert dump_rooms(tmp_path / "data", dump, RATE) == 3
    assert (dump / "rooms.ark").stat().st_mtime_ns == written  # nothing has changed
    with pytest.raises(InputError, match="rooms at 16000 Hz, the network 8000 Hz"):
        read_rooms(dump, 8000)
    (tmp_path / "data/rooms").unlink()
    assert dump_rooms(tmp_path / "data", dump, RATE) == 0
    assert not (dump / "rooms.ark").exists()
    assert read_rooms(dump, RATE) == []
    assert fingerprint_of_files(PairSet(dump)) == before[0]


def test_faults_are_named(folder, tmp_path):
    (tmp_path / "data").mkdir()
    audio.write(folder / "x/hall/b_0.wav", impulse_response(1), RATE)
    with pytest.raises(InputError, match="would both be hall_b_0; rename one"):
        list_rooms([folder], tmp_path / "data")
    audio.write(tmp_path / "quiet/room/a_0.wav", np.zeros(1000), RATE)
    list_rooms([tmp_path / "quiet"], tmp_path / "data")
    with pytest.raises(InputError, match=r"a_0\.wav: silent"):
        dump_rooms(tmp_path / "data", tmp_path / "data", RATE)
    assert not (tmp_path / "data/rooms.json").exists()
    with pytest.raises(InputError, match="no such folder"):
        list_rooms([tmp_path / "none"], tmp_path / "data")


def test_speech_and_noise_are_put_in_recorded_rooms(folder, tmp_path):
    (tmp_path / "data").mkdir()
    list_rooms([folder], tmp_path / "data")
    dump = dumped(tmp_path / "set")
    config = {"batch_size": 16, "segment_s": 0.25, "clean": 1.0, "speech_room": 1.0, "level_db": (-25.0, -25.0)}
    with pytest.raises(InputError, match="has no rooms, which data.recorded_rooms needs; list them in stage 1"):
        Mixtures(PairSet(dump), DataConfig(**config, recorded_rooms=1.0), 0)
    computed = Mixtures(PairSet(dump), DataConfig(**config), 0).batch(0)
    dump_rooms(tmp_path / "data", dump, RATE)
    pairs = PairSet(dump)
    same = Mixtures(pairs, DataConfig(**config), 0).batch(0)
    assert torch.equal(same.noisy, computed.noisy)  # they are used only where they are asked for
    dry = Mixtures(pairs, DataConfig(**{**config, "speech_room": 0.0}), 0).batch(0)
    batch = Mixtures(pairs, DataConfig(**config, recorded_rooms=1.0), 0).batch(0)
    rooms = [torch.from_numpy(response(room)).double() for room in pairs.rooms]
    for row in range(16):
        size, wav = 4000, dry.clean[row].double()
        if not wav.any():
            continue
        heard = [torch.fft.irfft(torch.fft.rfft(wav, 2**14) * torch.fft.rfft(room, 2**14))[:size] for room in rooms]
        likeness = [float(torch.corrcoef(torch.stack([batch.noisy[row].double(), each]))[0, 1]) for each in heard]
        assert max(likeness) > 0.99
