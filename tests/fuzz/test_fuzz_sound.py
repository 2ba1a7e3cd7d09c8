"""Every container of sound, mutated: read to its end or refused with one line, in bounded time and memory."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st

from helpers.audio import noise
from helpers.fuzzing import changes, cuts, hammer, holes, outcome
from sase import audio

RATE, NUM_SAMPLES = 16000, 6000
# Name: libsndfile's format and subtype, bytes that its structures begin with.
KINDS = {
    "a.wav": ("WAV", "PCM_16", (b"RIFF", b"fmt ", b"data")),
    "b.wav": ("WAV", "IMA_ADPCM", (b"RIFF", b"fmt ", b"fact", b"data")),
    "c.wav": ("WAVEX", "FLOAT", (b"RIFF", b"fmt ", b"data")),
    "a.rf64": ("RF64", "PCM_24", (b"RF64", b"ds64", b"data")),
    "a.w64": ("W64", "PCM_16", (b"riff", b"fmt ", b"data")),
    "a.aiff": ("AIFF", "PCM_16", (b"FORM", b"COMM", b"SSND")),
    "a.au": ("AU", "PCM_16", (b".snd",)),
    "a.caf": ("CAF", "PCM_16", (b"caff", b"desc", b"data")),
    "b.caf": ("CAF", "ULAW", (b"caff", b"desc", b"data")),
    "a.svx": ("SVX", "PCM_16", (b"FORM", b"VHDR", b"BODY")),
    "a.sph": ("NIST", "PCM_16", (b"NIST", b"sample_count", b"channel_count", b"end_head")),
    "a.flac": ("FLAC", "PCM_16", (b"fLaC", b"\xff\xf8")),
    "a.ogg": ("OGG", "VORBIS", (b"OggS", b"vorbis")),
    "a.opus": ("OGG", "OPUS", (b"OggS", b"OpusHead")),
    "a.mp3": ("MP3", "MPEG_LAYER_III", (b"\xff\xf3", b"Info", b"Xing", b"LAME")),
}
MP3_SLACK = 2304  # samples
MP3_COUNT_END = 25  # bytes, up to which the first frame declares the number of frames
UNSUPPORTED = ("AVR", "VOC", "IRCAM", "PAF", "MAT4", "MAT5", "XI", "HTK", "MPC2K", "PVF", "SDS", "WVE")


def encoded(kind, subtype):
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(NUM_SAMPLES), RATE, subtype, format=kind)
    return buffer.getvalue()


def read_all_ways(path):
    """Samples (channels, time) after checking that all ways of reading agree, and that they hold what they promise."""
    wav, rate = audio.read(path)
    assert wav.dtype == np.float32
    assert np.isfinite(wav).all()
    assert audio.MIN_RATE <= rate <= audio.MAX_RATE
    assert 1 <= len(wav) <= audio.MAX_CHANNELS
    assert abs(audio.info(path).num_samples - wav.shape[1]) <= MP3_SLACK
    with audio.open_blocks(path, 0.1) as (_, blocks):
        np.testing.assert_array_equal(np.concatenate(list(blocks), axis=1), wav)
    return wav


@pytest.mark.fuzz
@pytest.mark.parametrize("name", KINDS)
def test_sound(tmp_path, record_property, name):
    kind, subtype, marks = KINDS[name]
    content, path = encoded(kind, subtype), tmp_path / name
    path.write_bytes(content)
    whole = read_all_ways(path)

    def check(example):
        how, changed = example
        path.write_bytes(changed)
        wav = outcome(read_all_ways, path)
        if wav is None or how == "changed":
            return
        if kind == "MP3" and changed[:MP3_COUNT_END] != content[:MP3_COUNT_END]:
            return  # what is left does not say how many frames there were
        assert wav.shape[1] >= whole.shape[1] - (MP3_SLACK if kind == "MP3" else 0), f"{how}: a part was read"

    hammer(check, cuts(content) | holes(content) | changes(content, marks, marks), 0.34 / len(KINDS), record_property)


@pytest.mark.fuzz
def test_containers_that_are_not_read(tmp_path, record_property):
    contents = [encoded(kind, soundfile.default_subtype(kind)) for kind in UNSUPPORTED]
    contents.append(encoded("CAF", "ALAC_16"))
    path = tmp_path / "a.bin"

    def check(example):
        path.write_bytes(example[1])
        outcome(read_all_ways, path)

    hammer(check, st.sampled_from(contents).flatmap(lambda c: cuts(c) | changes(c, ())), 0.04, record_property)
