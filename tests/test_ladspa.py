"""The LADSPA plugin in the hosts of the LADSPA SDK."""

import os
import re
import subprocess
import time

import numpy as np
import pytest
import soundfile

from helpers import commands, programs
from helpers.audio import noise
from helpers.native import Live, make, signals
from sase.errors import InputError
from sase.export.core_weights import core_weights
from sase.export.ladspa import export_ladspa
from sase.native.weights import write_weights


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    programs.find("/usr/include/ladspa.h", "cc", "make")
    path = tmp_path_factory.mktemp("plugin") / "sase_ladspa.so"
    done = export(path)
    assert (done.returncode, done.stdout) == (0, f"{path}: written\n"), done.stderr
    return path


def export(path):
    return commands.sase("export", "--model", "tiny", "--to", "ladspa", "-o", path)


def analyse(plugin):
    (program,) = programs.find("analyseplugin")
    return subprocess.run([program, plugin], capture_output=True, text=True, check=True).stdout


def apply(plugin, source, target, *arguments, **options):
    """Run ``applyplugin``; it answers with files of 16 bits, as many samples as the input has."""
    (program,) = programs.find("applyplugin")
    command = [program, source, target, plugin, "sase", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.recipe
def test_a_host_sees_its_ports(plugin):
    report = analyse(plugin)
    assert 'Plugin Label: "sase"' in report
    assert "Hard Real-Time" in report
    assert '"Attenuation Limit (dB)" input, control, 0 to 100, default 100' in report
    assert '"latency" output, control' in report


@pytest.mark.recipe
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.parametrize("limit_db", [100, 12])
def test_a_host_gets_what_the_core_computes(plugin, core_build, core_weights, tmp_path, rate, limit_db):
    wav = np.round(0.5 * signals(16000) * 32767) / 32768
    soundfile.write(tmp_path / "noisy.wav", wav, rate, "PCM_16")
    done = apply(plugin, tmp_path / "noisy.wav", tmp_path / "enhanced.wav", limit_db, check=True)
    enhanced, out_rate = soundfile.read(tmp_path / "enhanced.wav", dtype="float32")
    stream = Live(core_build / "_core.so", core_weights["tiny"], rate)
    expected = stream.feed(wav, 0.0 if limit_db == 100 else 10 ** (-limit_db / 20))
    assert out_rate == rate
    assert len(enhanced) == len(wav), done.stdout
    assert np.abs(enhanced - np.clip(expected, -1, 1)).max() <= 2 / 32768
    assert np.abs(expected).max() > 0.05


@pytest.mark.recipe
def test_a_rate_that_cannot_be_resampled_is_refused(plugin, tmp_path):
    soundfile.write(tmp_path / "noisy.wav", 0.1 * noise(1000), 44101)
    done = apply(plugin, tmp_path / "noisy.wav", tmp_path / "enhanced.wav", 100)
    assert done.returncode != 0
    assert "Failed to instantiate" in done.stderr


@pytest.mark.recipe
def test_pipewire_makes_a_microphone_of_it(root, plugin, tmp_path):
    """The configuration of the README, in a PipeWire of its own."""
    programs.find("pipewire", "pw-cli")
    home, runtime = tmp_path / "home", tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    block = re.search(r"mkdir -p ~/.ladspa.*?CONF\n.*?\nCONF\n", (root / "README.md").read_text(), re.DOTALL)[0]
    script = re.sub(r"(?m)^sase export .*$", f"cp {plugin} ~/.ladspa/sase_ladspa.so", block)
    environment = os.environ | {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}
    environment.pop("XDG_CONFIG_HOME", None)
    subprocess.run(["bash", "-euc", script], env=environment, check=True)
    with open(tmp_path / "log", "wb") as log:
        daemon = subprocess.Popen(["pipewire"], env=environment, stdout=log, stderr=log)
    nodes, end = "", time.monotonic() + 20
    try:
        while 'node.name = "sase"' not in nodes and time.monotonic() < end:
            time.sleep(0.3)
            nodes = subprocess.run(["pw-cli", "ls", "Node"], env=environment, capture_output=True, text=True).stdout
    finally:
        daemon.terminate()
        daemon.wait()
    assert 'node.name = "sase"' in nodes, (tmp_path / "log").read_text()
    assert 'media.class = "Audio/Source"' in nodes
    assert 'node.description = "Microphone without noise"' in nodes


@pytest.mark.recipe
def test_sanitizers_find_nothing_in_the_plugin(root, tmp_path):
    """applyplugin itself is not instrumented: the sanitizer's library is loaded before it."""
    programs.find("/usr/include/ladspa.h", "applyplugin")
    found = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip("this compiler has no address sanitizer: the plugin is not tested with it")
    write_weights(core_weights("tiny"), tmp_path / "tiny.c")
    flags = "CFLAGS=-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
    plugin = tmp_path / "build/sase_ladspa.so"
    make(root, tmp_path / "build", f"WEIGHTS={tmp_path / 'tiny.c'}", flags, str(plugin))
    soundfile.write(tmp_path / "noisy.wav", 0.1 * noise(9000), 48000)
    environment = os.environ | {"LD_PRELOAD": found, "ASAN_OPTIONS": "detect_leaks=0"}
    done = apply(plugin, tmp_path / "noisy.wav", tmp_path / "enhanced.wav", 20, env=environment)
    assert done.returncode == 0, done.stderr
    assert "runtime error" not in done.stderr
    assert soundfile.info(tmp_path / "enhanced.wav").frames == 9000


def test_a_missing_compiler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = export(tmp_path / "plugin.so")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "C compiler" in done.stderr
    assert not (tmp_path / "plugin.so").exists()


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match="end its name in .so"):
        export_ladspa(core_weights("tiny"), tmp_path / "plugin")


def test_a_missing_header_is_one_line(tmp_path, monkeypatch):
    """Stands for a machine without the LADSPA SDK: a compiler that finds no header."""
    (tmp_path / "cc").write_text("#!/bin/sh\necho 'ladspa.c:2:10: fatal error: ladspa.h: No such file' >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(InputError, match="install the LADSPA SDK"):
        export_ladspa(core_weights("tiny"), tmp_path / "plugin.so")
