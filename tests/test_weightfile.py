"""Files of weights that declare far more than they hold: one line, before anything of that size is made."""

import io
import json
import pickle
import subprocess
import sys
import zipfile

import pytest
import safetensors.torch
import torch

from sase import pretrained
from sase.config import to_mapping
from sase.errors import InputError
from sase.model import build_model, save_model
from sase.weightfile import FORMAT

ABSURD = [{"blocks": 10**6}, {"recurrent": 10**6}, {"channels": [10**6] * 6}, {"channels": [16] * 10**4}]
ABSURD += [{"bands": 10**9, "network": "band_recurrent"}]
# Within the ranges of a configuration, but larger than the weights of `mini`.
LARGE = [{"blocks": 64}, {"recurrent": 4096}, {"channels": [4096, 4096]}, {"bands": 4096}]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("mini").eval()


def saved(model, path, config):
    """Save a model in either format, with another configuration."""
    if path.suffix == ".safetensors":
        metadata = {"format": FORMAT, "model_config": config if isinstance(config, str) else json.dumps(config)}
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        safetensors.torch.save_file(state, path, metadata)
    else:
        torch.save({"format": FORMAT, "model_config": config, "model": model.state_dict()}, path)


@pytest.mark.parametrize("name", ["a.safetensors", "best.pt"])
@pytest.mark.parametrize("change", ABSURD + LARGE, ids=lambda change: str(change)[:25])
def test_a_network_larger_than_its_weights_is_not_built(tmp_path, model, name, change):
    saved(model, tmp_path / name, to_mapping(model.config))
    assert pretrained.load(tmp_path / name).config == model.config
    saved(model, tmp_path / name, {**to_mapping(model.config), **change})
    key = next(iter(change))
    message = f"do not match the config .too few for {key}" if change in LARGE else f"config: model.{key} must"
    with pytest.raises(InputError, match=message) as error:
        pretrained.load(tmp_path / name)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "config", ["", "{", "[" * 100000, "x" * 100000, '{"blocks": NaN}', "3", "null"], ids=lambda text: text[:20]
)
def test_metadata_that_is_no_configuration_is_one_line(tmp_path, model, config):
    saved(model, tmp_path / "a.safetensors", config)
    with pytest.raises(InputError) as error:
        pretrained.load(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"model_config": {}},
        {"model_config": {}, "model": None},
        {"model_config": {}, "model": {"a": 1}},
        {"model_config": 3, "model": {}},
    ],
    ids=str,
)
def test_a_checkpoint_without_its_parts_is_one_line(tmp_path, state):
    torch.save({"format": FORMAT, **state}, tmp_path / "best.pt")
    with pytest.raises(InputError) as error:
        pretrained.load(tmp_path / "best.pt")
    assert "\n" not in str(error.value)


def test_a_packed_checkpoint_is_not_unpacked(tmp_path, model):
    save_model(model, tmp_path / "best.pt")
    with zipfile.ZipFile(tmp_path / "best.pt") as source, zipfile.ZipFile(tmp_path / "packed.pt", "w", 8) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
        target.writestr("archive/data/999", bytes(50_000_000))
    with pytest.raises(InputError, match="packed.pt: not a readable checkpoint: 5[0-9]* bytes in a file of"):
        pretrained.load(tmp_path / "packed.pt")


def test_a_checkpoint_that_claims_to_span_several_disks_is_one_line(tmp_path, model):
    save_model(model, tmp_path / "best.pt")
    content = (tmp_path / "best.pt").read_bytes()
    place = content.rindex(b"PK\x06\x07") + 16  # of the number of disks, in the locator of the 64-bit directory
    (tmp_path / "best.pt").write_bytes(content[:place] + b"\x02" + content[place + 1 :])
    with pytest.raises(InputError, match=r"best.pt: not a readable checkpoint \("):
        pretrained.load(tmp_path / "best.pt")


LIMITED = """
import resource, sys
from sase import model, pretrained
from sase.errors import InputError
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), used + (300 << 20)))
for path in sys.argv[1:]:
    try:
        pretrained.load(path)
    except InputError as error:
        assert "\\n" not in str(error)
        print(error)
"""


@pytest.mark.recipe
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space")
def test_declared_tensors_take_no_memory(tmp_path, root):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 32], "data_offsets": [0, 1 << 34]}}).encode()
    (tmp_path / "long.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "header.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    old = io.BytesIO()
    torch.save({"format": FORMAT, "a": torch.zeros(1000)}, old, _use_new_zipfile_serialization=False)
    content = old.getvalue().replace(pickle.dumps(1000, 2)[2:-1], pickle.dumps(1 << 30, 2)[2:-1])
    (tmp_path / "old.pt").write_bytes(content)
    names = [str(tmp_path / name) for name in ("long.safetensors", "header.safetensors", "old.pt")]
    done = subprocess.run([sys.executable, "-c", LIMITED, *names], cwd=root, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 3
