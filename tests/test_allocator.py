"""What glibc does with freed memory, in processes of their own: the settings hold for a whole process."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")

PAGE_FAULTS = """
import resource, numpy as np
from sase.allocator import keep_freed_memory
keep_freed_memory()
def step():  # as in training: all blocks are live until the end
    blocks = [np.ones(2**22, np.float32) for _ in range(8)]  # 16 MB each, mapped separately by default
for _ in range(8):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (4 * 8 * 2**24))
"""

# Frees 64 MB below a block that stays; prints how many MB the process has more than before, then after `call`.
LEFT = """
import sys
import sase.allocator
def in_memory():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon")) / 1e3
size = int(sys.argv[1])
if sys.argv[2] == "before":
    getattr(sase.allocator, sys.argv[3])()
else:
    big = bytearray(8_000_000)  # once it is freed, smaller blocks share the heap
    del big
start = in_memory()
blocks = [bytearray(size) for _ in range(64_000_000 // size)]
kept = bytearray(size)
del blocks
if sys.argv[2] == "after":
    left = in_memory() - start
    getattr(sase.allocator, sys.argv[3])()
    print(left, in_memory() - start)
else:
    print(in_memory() - start)
"""


def printed(root, *arguments):
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", *map(str, arguments)]
    output = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in output.split()]


def test_freed_memory_is_reused_without_page_faults(root):
    assert printed(root, PAGE_FAULTS)[0] < 0.1


def test_large_blocks_are_returned_when_they_are_freed(root):
    assert printed(root, LEFT, 1_000_000, "before", "return_large_blocks")[0] < 10


def test_freed_memory_is_returned_on_demand(root):
    before, after = printed(root, LEFT, 1_000_000, "after", "return_freed_memory")
    assert before > 50
    assert after < 10
