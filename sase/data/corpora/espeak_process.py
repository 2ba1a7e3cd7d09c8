"""A separate process that synthesises sentences with eSpeak NG; sase.data.corpora.espeak runs this file by its path.

One process per voice, since eSpeak keeps state between calls: only the first sequence of sentences after a start is
reproducible. Reads JSON from standard input (library, data, voice, pitch, range, speed, seed,
sentences, output); writes the samples of all sentences as raw int16 to ``output``, JSON (sample_rate, lengths) to
standard output.
"""

import ctypes
import json
import sys
from typing import Any

AUDIO_OUTPUT_SYNCHRONOUS = 2
DONT_EXIT = 0x8000  # otherwise a wrong data path makes the library exit silently
CHARACTERS_ARE_UTF8 = 1
POSITION_IS_CHARACTER = 1
PARAMETERS = {"speed": 1, "pitch": 3, "range": 4}

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def speak(request: dict[str, Any]) -> tuple[int, list[int]]:
    """Write the samples of all sentences; return the sample rate in Hz and the lengths in samples."""
    library = ctypes.CDLL(request["library"])
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    sample_rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, request["data"].encode(), DONT_EXIT)
    if sample_rate <= 0:
        raise RuntimeError(f"eSpeak NG failed to start with the data in {request['data']} (status {sample_rate})")
    status = library.espeak_SetVoiceByName(request["voice"].encode())
    if status != 0:
        raise RuntimeError(f"eSpeak NG has no voice {request['voice']} (status {status})")
    for name, number in PARAMETERS.items():
        library.espeak_SetParameter(number, request[name], 0)
    library.espeak_ng_SetRandSeed(request["seed"])
    lengths: list[int] = []
    with open(request["output"], "wb") as sink:

        def append(samples: int | None, count: int, events: int | None) -> int:
            if samples and count > 0:
                sink.write(ctypes.string_at(samples, 2 * count))
                lengths[-1] += count
            return 0

        callback = CALLBACK(append)  # must outlive every call
        library.espeak_SetSynthCallback(callback)
        for sentence in request["sentences"]:
            lengths.append(0)
            text = sentence.encode()
            status = library.espeak_Synth(
                text, len(text) + 1, 0, POSITION_IS_CHARACTER, 0, CHARACTERS_ARE_UTF8, None, None
            )
            if status != 0 or lengths[-1] == 0:
                raise RuntimeError(f"eSpeak NG produced no audio for '{sentence}' (status {status})")
    return sample_rate, lengths


if __name__ == "__main__":
    rate, counts = speak(json.load(sys.stdin))
    json.dump({"sample_rate": rate, "lengths": counts}, sys.stdout)
