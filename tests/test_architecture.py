"""Who may import whom, as docs/architecture.md lists it: all import statements are read, lazy ones too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = [  # a module imports from its own layer or the ones before it
    "__version__ errors",
    "allocator atomic audio batch completion config containers endpoints extras filetree hops jsonfile "
    "locking machine markdown plotting private processes progress textfile waiting workers yamlfile zipfiles",
    "nn metrics native",
    "model losses data pretrained weightfile inspection profiling",
    "engines",
    "stages outputs",
    "training enhancer inspection_figure live",
    "enhancing",
    "federated evaluation export report",
    "studies bench",
    "bin",
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
NEVERS = [  # (importing, imported)
    ("sase.training", "sase.federated"),
    ("sase.nn", "sase.data"),
    ("sase.losses", "sase.data"),
    ("sase.metrics", "sase.data"),
    ("sase.federated", "sase.studies"),
    ("sase.federated", "sase.evaluation"),
]
ALIASES = ("sase.federated.client_app", "sase.federated.server_app")  # names that silos of version 0.1 check
HEAVY = {
    "torch",
    "torchaudio",
    "librosa",
    "matplotlib",
    "scipy",
    "soundfile",
    "flwr",
    "ray",
    "pesq",
    "pystoi",
    "tensorboard",
}


def below(name, package):
    return name == package or name.startswith(package + ".")


def imports_of(path, module):
    """Yield (line, absolute name) of everything that a file imports; names imported from a package count as modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.fixture(scope="module")
def imports(root):
    """All imports of the package: (file and line, importing module, imported name)."""
    found = []
    for path in sorted((root / "sase").rglob("*.py")):
        relative = path.relative_to(root)
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        found += [(f"{relative}:{line}", module, name) for line, name in imports_of(path, module)]
    assert len(found) > 500
    return found


def test_imports_point_downwards(imports):
    wrong = []
    for place, module, name in imports:
        if module == "sase" or not name.startswith("sase."):
            continue
        importing, imported = module.split(".")[1], name.split(".")[1]
        assert importing in LAYER, f"{place}: add {importing} to a layer here and in docs/architecture.md"
        if LAYER.get(imported, len(LAYERS)) > LAYER[importing]:
            wrong.append(f"{place}: {importing} imports {imported}")
    assert not wrong


@pytest.mark.parametrize(("importing", "imported"), NEVERS)
def test_rooms_that_do_not_know_each_other(imports, importing, imported):
    assert not [place for place, module, name in imports if below(module, importing) and below(name, imported)]


def test_only_the_reader_of_sound_imports_its_decoder(imports):
    importing = {module for _, module, name in imports if below(name, "soundfile")}
    assert importing
    assert all(below(module, "sase.audio") for module in importing)
    others = {"wave", "audioop", "aifc", "sunau", "torchaudio.load", "librosa.load", "scipy.io.wavfile"}
    assert not [place for place, _, name in imports if name in others]


def test_of_what_enhances_files_only_the_engine_torch_imports_it(imports):
    enhancing = ("sase.engines", "sase.native", "sase.hops", "sase.stages", "sase.live", "sase.outputs", "sase.audio")
    importing = {m for _, m, name in imports if below(name, "torch") and any(below(m, room) for room in enhancing)}
    assert importing == {"sase.engines.torch"}
    lazy = ("sase.model", "sase.nn.frozen")  # which import torch themselves
    importing = {m for _, m, name in imports if any(below(name, x) for x in lazy) and below(m, "sase.engines")}
    assert importing == {"sase.engines.torch"}


def test_only_the_flower_engine_imports_flower(imports):
    flower = "sase.federated.flower"
    assert not [p for p, module, name in imports if below(name, "flwr") and not below(module, flower)]
    assert {module for _, module, name in imports if below(name, "flwr")}


def test_the_alias_modules_only_import_from_the_flower_engine(imports):
    for alias in ALIASES:
        names = [name for _, module, name in imports if module == alias]
        assert names
        assert all(below(name, "sase.federated.flower") for name in names)


def test_nothing_imports_the_commands(imports):
    wrong = [p for p, module, name in imports if below(name, "sase.bin") and not below(module, "sase.bin")]
    assert not wrong


def test_tests_do_not_import_each_other(root):
    for path in (root / "tests").rglob("*.py"):
        assert not [name for _, name in imports_of(path, "") if name.startswith("test_")], path


def test_the_public_face_needs_no_heavy_package(root):
    """Read at run time: neither ``import sase`` nor the modules of the command line import torch and the like."""
    script = f"import sys, sase, sase.bin.main, sase.errors, sase.config; print({HEAVY!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(root), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
