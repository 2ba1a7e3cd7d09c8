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

from sase import model as model_module
from sase import pretrained
from sase.config import to_mapping
from sase.errors import InputError
from sase.model import PRESETS, build_model, load_model, read_checkpoint, save_model
from sase.weightfile import FORMAT, least_weights

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


HUGE = {"network": "encoder_decoder", "channels": [4096] * 6}
# Each field alone is within its range; what is built of them together is not.
PRODUCTS = [({"fft": 2**20, "bands": 2048}, "bands = 2048, fft"), ({"fft": 2**20}, "bands = 16, fft")]
PRODUCTS += [({"recurrent": 30, "blocks": 9, "heads": 1}, "recurrent = 30, blocks")]
PRODUCTS += [({"network": "encoder_decoder", "fft": 2**20, "channels": [4] * 4}, "channels = .* fft")]


@pytest.fixture
def nothing_built(monkeypatch):
    def build(config):
        raise AssertionError(f"built {config}")

    monkeypatch.setattr(model_module, "build_model", build)


@pytest.mark.parametrize("name", ["a.safetensors", "best.pt"])
@pytest.mark.parametrize(("change", "message"), PRODUCTS)
def test_a_network_of_a_large_transform_is_not_built(tmp_path, model, nothing_built, name, change, message):
    saved(model, tmp_path / name, {**to_mapping(model.config), **change})
    with pytest.raises(InputError, match=f"{name}: the weights do not match the config .too few for {message}"):
        pretrained.load(tmp_path / name)


CHANGES = [{}, {"causal": False, "recurrent": 9, "heads": 3}, {"frequency_attention": False, "time_attention": False}]
CHANGES += [{"attention": "softmax"}, {"fft": 2048, "norm": "layer"}, {"gates": False, "learned_sigmoids": False}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "dccrn"])
def test_the_weights_of_a_network_are_no_fewer_than_its_bounds_and_not_many_more(preset, change):
    model = build_model({"preset": preset, **change})
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    assert max(least_weights(model.config).values()) <= count
    assert count <= 2 * sum(least_weights(model.config).values()) + 10000  # small tensors are in no bound


@pytest.mark.parametrize("place", ["network.to_features.weight", "unknown"])
@pytest.mark.parametrize("config", [{}, HUGE], ids=["valid", "huge"])
def test_a_tensor_that_declares_more_than_is_stored_is_refused(tmp_path, model, nothing_built, place, config):
    weights = {**model.state_dict(), place: torch.zeros(1).expand(1 << 40)}
    content = {"format": FORMAT, "model_config": {**to_mapping(model.config), **config}, "model": weights}
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(InputError, match=f"best.pt: model.{place} declares {1 << 40} values and holds 1;"):
        load_model(tmp_path / "best.pt")


def test_one_storage_of_many_tensors_counts_once(tmp_path, model, nothing_built):
    shared = torch.zeros(1000)
    weights = {**model.state_dict(), **{f"unknown{i}": shared for i in range(10**4)}}
    config = {**to_mapping(model.config), "recurrent": 512}
    torch.save({"format": FORMAT, "model_config": config, "model": weights}, tmp_path / "best.pt")
    with pytest.raises(InputError, match="too few for recurrent = 512"):
        load_model(tmp_path / "best.pt")


STRANGE = {
    "sparse_coo": lambda: torch.zeros(4, 4).to_sparse(),
    "sparse_csr": lambda: torch.zeros(4, 4).to_sparse_csr(),
    "on the device meta": lambda: torch.zeros(4, device="meta"),
    "of type qint8": lambda: torch.quantize_per_tensor(torch.zeros(4), 1.0, 0, torch.qint8),
    "of type float8_e4m3fn": lambda: torch.zeros(4).to(torch.float8_e4m3fn),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)]),
}


@pytest.mark.filterwarnings("ignore")  # of the prototypes that these are in PyTorch
@pytest.mark.parametrize("kind", STRANGE)
def test_tensors_that_are_not_dense_are_one_line_with_their_name(tmp_path, model, nothing_built, kind):
    weights = {**model.state_dict(), "network.to_features.weight": STRANGE[kind]()}
    with pytest.raises(InputError, match=f"^network.to_features.weight is a tensor {kind}, which cannot be read; "):
        model_module.check_weights(weights, model.state_dict())
    content = {"format": FORMAT, "model_config": to_mapping(model.config), "model": weights}
    for name, change in {
        "model.network": {},
        r"moments.*\.0\.a": {"model": {}, "moments": {"x": [{"a": STRANGE[kind]()}]}},
    }.items():
        torch.save({**content, **change}, tmp_path / "best.pt")
        with pytest.raises(InputError, match=f"best.pt: {name}.* is a tensor {kind}") as error:
            load_model(tmp_path / "best.pt")
        assert "\n" not in str(error.value)


def test_a_checkpoint_that_holds_itself_is_read(tmp_path):
    state = {"format": FORMAT, "list": []}
    state["list"].append(state["list"])
    torch.save(state, tmp_path / "best.pt")
    assert read_checkpoint(tmp_path / "best.pt")["list"]
    with pytest.raises(InputError, match="contains no weights|config"):
        load_model(tmp_path / "best.pt")


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
