"""The build of the C core, its checks under sanitizers, and the program sase-denoise."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from helpers import programs
from helpers.audio import noise
from helpers.native import SHIPPED, assert_same, in_torch, make, signals, with_level
from sase.export.native import export_native, native_weights
from sase.native import NativeModel
from sase.pretrained import load


@pytest.fixture
def tiny(core_build, core_weights):
    return NativeModel(core_weights["tiny"], core_build / "_core.so")


def denoise(program, weights, format, data):
    command = [str(program), *(["-f", format] if format else []), *([str(weights)] if weights else [])]
    return subprocess.run(command, input=data, capture_output=True)


@pytest.mark.recipe
def test_the_program_equals_the_library_at_any_level(core_build, core_weights, tiny):
    for num_samples in (0, 1, 256, 10000):
        wav = signals(10000)[:num_samples]
        enhanced = with_level(tiny, wav) if num_samples else wav
        done = denoise(core_build / "sase-denoise", core_weights["tiny"], "f32le", wav.astype("<f4").tobytes())
        assert (done.returncode, done.stderr) == (0, b"")
        assert_same(np.frombuffer(done.stdout, "<f4"), enhanced)
        integers = np.clip(np.round(wav * 32768), -32768, 32767).astype("<i2")
        done = denoise(core_build / "sase-denoise", core_weights["tiny"], None, integers.tobytes())
        expected = with_level(tiny, integers.astype("f4") / 32768) * 32768 if num_samples else wav
        got = np.frombuffer(done.stdout, "<i2")
        assert len(got) == num_samples
        assert np.abs(got - np.clip(expected, -32768, 32767)).max(initial=0) <= 0.5 + 1e-2


def test_the_program_answers_each_hop_at_once(core_build, core_weights):
    command = [str(core_build / "sase-denoise"), "-f", "f32le", str(core_weights["tiny"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(bytes(4 * 512))  # two hops: the first is the latency
        process.stdin.flush()
        assert len(process.stdout.read(4 * 256)) == 4 * 256  # would wait for ever if the program waited for more
        process.stdin.close()
        assert len(process.stdout.read()) == 4 * 256


def test_the_program_refuses_in_one_line(core_build, core_weights, tmp_path):
    program = core_build / "sase-denoise"
    (tmp_path / "text.sase").write_text("no weights")
    for file, format, data, message in (
        (core_weights["tiny"], "f32le", np.full(300, np.nan, "<f4").tobytes(), "standard input: samples contain NaN"),
        (core_weights["tiny"], None, bytes(1001), "standard input: ends within a sample"),
        (tmp_path / "text.sase", None, b"", "text.sase: not a file of weights"),
        (tmp_path / "gone.sase", None, b"", "gone.sase: cannot be read"),
    ):
        done = denoise(program, file, format, data)
        assert done.returncode == 1
        assert message in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
    assert denoise(program, None, None, b"").returncode == 2
    assert denoise(program, core_weights["tiny"], "s24le", b"").returncode == 2


@pytest.mark.recipe
def test_weights_are_compiled_in(root, core_build, core_weights, tmp_path):
    export_native(load("tiny"), tmp_path / "tiny.c")
    make(root, tmp_path / "build", f"WEIGHTS={tmp_path / 'tiny.c'}", "CFLAGS=-O1", str(tmp_path / "build/sase-denoise"))
    data = noise(3000).astype("<f4").tobytes()
    with_file = denoise(tmp_path / "build/sase-denoise", core_weights["tiny"], "f32le", data)
    compiled_in = denoise(tmp_path / "build/sase-denoise", None, "f32le", data)
    assert compiled_in.stdout == with_file.stdout
    assert len(compiled_in.stdout) == len(data)


@pytest.mark.recipe
def test_checks_in_c(root, core_build, core_weights):
    report = make(root, core_build, "test", f"WEIGHTS={core_weights['small']}")
    assert report.count("ok:") >= 15
    assert "FAILED" not in report


@pytest.mark.recipe
def test_sanitizers_find_nothing(root, core_build, core_weights):
    """The same checks and the program, under the address and the undefined-behaviour sanitizer."""
    try:
        subprocess.run(
            ["cc", "-fsanitize=address,undefined", "-x", "c", "-", "-o", core_build / "probe"],
            input=b"int main(void) { return 0; }",
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this compiler has no sanitizers: the C core is not tested with them")
    assert make(root, core_build, "sanitize", f"WEIGHTS={core_weights['tiny']}").count("ok:") >= 15
    data = signals(8000).astype("<f4").tobytes()
    for name in SHIPPED:
        done = denoise(core_build / "sanitized/sase-denoise", core_weights[name], "f32le", data)
        assert (done.returncode, done.stderr) == (0, b"")
        expected = with_level(NativeModel(core_weights[name], core_build / "_core.so"), np.frombuffer(data, "<f4"))
        assert_same(np.frombuffer(done.stdout, "<f4"), expected)


@pytest.mark.recipe
@pytest.mark.parametrize("switches", ["-DSASE_NO_DISPATCH", "-DSASE_NO_DISPATCH -DSASE_NO_VECTORS"])
def test_code_for_other_processors(root, core_weights, tmp_path, switches):
    """Without AVX2, and in plain C99 without vector types."""
    make(root, tmp_path, f"CFLAGS=-O1 {switches}", str(tmp_path / "_core.so"))
    wav = signals(16000)
    assert_same(NativeModel(core_weights["tiny"], tmp_path / "_core.so").enhance(wav), in_torch(load("tiny"), wav))


def test_the_core_needs_no_library(core_build):
    if shutil.which("nm") is None:
        pytest.skip("no nm here: undefined symbols are not tested")
    undefined = set[str]()
    for name in ("sase.o", "hop.o", "hop_avx2.o", "live.o"):
        report = subprocess.run(["nm", "-u", core_build / name], capture_output=True, text=True, check=True).stdout
        undefined |= {line.split()[-1] for line in report.splitlines() if line.strip()}
    own = {"sase_hop_generic", "sase_hop_avx2", "_GLOBAL_OFFSET_TABLE_"}
    own |= {"sase_check_header", "sase_size", "sase_init", "sase_reset", "sase_process"}  # of sase.o, for live.o
    compiler = {"__cpu_model", "__cpu_indicator_init"}  # of libgcc and compiler-rt, linked statically
    assert undefined - own - compiler == set()


@pytest.mark.recipe
def test_the_committed_webassembly_is_that_of_the_sources(root, tmp_path):
    committed = (root / "sase/native/sase.wasm").read_bytes()
    recorded = re.search(rb"processed-by\x01.([ -~]+?)[\x00-\x1f]([\d.]+)", committed)  # wasm-ld records its compiler
    clang, _ = programs.find("clang", "wasm-ld")
    version = subprocess.run([clang, "--version"], capture_output=True, text=True, check=True).stdout
    compiler = " version ".join(part.decode() for part in recorded.groups())
    make(root, tmp_path, "wasm")  # undefined symbols are errors
    if not version.startswith(f"{compiler}\n"):
        pytest.skip(f"{version.splitlines()[0]} here, and not {compiler}: the bytes are not compared")
    assert (tmp_path / "sase.wasm").read_bytes() == committed


@pytest.mark.recipe
def test_the_extension_is_built_and_may_fail(root, tmp_path):
    """Without a compiler the build goes on without the core."""
    for compiler, expected in (("cc", 1), ("false", 0)):
        if shutil.which(compiler) is None:
            pytest.skip(f"no {compiler} here: building the extension is not tested")
        out = tmp_path / compiler
        command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={out}", f"--build-temp={out}/temp"]
        environment = {"PATH": "/usr/bin:/bin", "CC": compiler}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        cores = list(out.glob("sase/native/_core*.so"))
        assert len(cores) == expected
        for core in cores:
            assert NativeModel(native_weights(load("tiny")), core).hop == 256
