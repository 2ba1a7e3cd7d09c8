"""Structure-aware mutation of files; the oracle of readers: one-line errors only, bounded time and memory."""

import contextlib
import os
import resource
import struct
import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from sase.errors import InputError

SECONDS = float(os.environ.get("SASE_FUZZ_SECONDS", "60"))  # for all readers together
SEED = int(os.environ.get("SASE_FUZZ_SEED", "0"))
MAX_SECONDS = 10.0  # that one input may take, on a busy machine
MAX_MEMORY = 1 << 30  # bytes of address space that a reader may add
_ROUND = 50  # inputs between two looks at the clock

# What headers are made to say: powers of two and their neighbours, what stands for "unknown", negative numbers.
_POWERS = [1 << bits for bits in (8, 15, 16, 31, 32, 36, 63)]
NUMBERS = sorted({0, 1, 3, 7, 0x7FFFF000, *(power + shift for power in _POWERS for shift in (-1, 0, 1))})
FIELDS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")


def numbers():
    """Strategy of bytes of a field with a number of special meaning."""
    return st.builds(
        lambda number, field: struct.pack(field, number % (1 << 8 * struct.calcsize(field))),
        st.sampled_from(NUMBERS),
        st.sampled_from(FIELDS),
    )


def places(content, marks):
    """Strategy of positions, half of them close to the structures of the format."""
    found = [place for mark in marks for place in _find_all(content, mark)] or [0]
    near = st.builds(lambda place, shift: min(len(content), place + shift), st.sampled_from(found), st.integers(0, 40))
    return st.integers(0, len(content)) | near


def cuts(content):
    """Strategy of ("cut", content without its end)."""
    return st.integers(0, len(content) - 1).map(lambda end: ("cut", content[:end]))


def holes(content):
    """Strategy of ("hole", content without a part of its middle)."""
    begins, lengths = st.integers(0, len(content) - 1), st.integers(1, max(1, len(content) // 2))
    return st.builds(lambda begin, length: ("hole", content[:begin] + content[begin + length :]), begins, lengths)


def changes(content, marks, pieces=()):
    """Strategy of ("changed", content with fields, bytes or pieces of the format overwritten, inserted, repeated)."""
    values = numbers() | st.binary(min_size=1, max_size=8)
    if pieces:
        values |= st.sampled_from(list(pieces))
    where = places(content, marks)

    def apply(edits):
        changed = bytes(content)
        for place, value, kind in edits:
            if kind == "repeat":
                changed = changed[:place] + changed[max(0, place - 64) : place] * 3 + changed[place:]
            else:
                changed = changed[:place] + value + changed[place + (len(value) if kind == "overwrite" else 0) :]
        return "changed", changed

    edit = st.tuples(where, values, st.sampled_from(["overwrite", "overwrite", "insert", "repeat"]))
    return st.lists(edit, min_size=1, max_size=4).map(apply)


def hammer(check, strategy, share, record):
    """Call ``check`` with inputs of a strategy for a share of the time; hypothesis shrinks what fails."""
    end, count = time.monotonic() + share * SECONDS, 0

    def timed(example):
        nonlocal count
        count += 1
        begin = time.process_time()  # which a busy machine does not lengthen
        check(example)
        assert time.process_time() - begin < MAX_SECONDS, "one input took too long"

    phases = (Phase.generate, Phase.shrink)
    options = settings(
        max_examples=_ROUND, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck)
    )
    number = 0
    with limited_memory():
        while number == 0 or time.monotonic() < end:
            seed(SEED * 1_000_003 + number)(options(given(strategy)(timed)))()
            number += 1
    record("inputs", count)


@contextlib.contextmanager
def limited_memory():
    """Limit the address space to what is in use and MAX_MEMORY."""
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(read, *arguments):
    """What a reader returns, or None if it refuses with one line; everything else that it raises is a fault."""
    try:
        return read(*arguments)
    except InputError as error:
        text = str(error)
        assert text
        assert text.isprintable(), "control characters could act on a terminal"
        assert len(text) < 2000
        return None


def _find_all(content, mark):
    place = content.find(mark)
    while place >= 0:
        yield place
        place = content.find(mark, place + 1)
