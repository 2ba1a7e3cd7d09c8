"""DNSMOS: ratings of noise-suppressed speech that networks predict without a clean signal.

C. K. A. Reddy, V. Gopal and R. Cutler, "DNSMOS P.835", ICASSP 2022 (SIG, BAK, OVRL), and "DNSMOS", ICASSP 2021 (P808).
The networks and their code are Microsoft's, in the package ``speechmos`` under the MIT licence.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sase.errors import InputError
from sase.extras import missing_package

RATE = 16000
RATINGS = {  # name to what is rated
    "SIG": "the quality of the speech (ITU-T P.835)",
    "BAK": "the quality of the background (ITU-T P.835)",
    "OVRL": "the overall quality (ITU-T P.835)",
    "P808": "the overall quality (ITU-T P.808)",
}
_KEYS = {"SIG": "sig_mos", "BAK": "bak_mos", "OVRL": "ovrl_mos", "P808": "p808_mos"}  # of speechmos


def require() -> None:
    """Raise InputError, with the command that installs it, unless the package of the networks is there."""
    try:
        import speechmos.dnsmos  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"DNSMOS: {missing_package(error.name or 'speechmos')}") from None


def ratings(wav: np.ndarray, sample_rate: int) -> dict[str, float]:
    """Return {name of :data:`RATINGS`: rating from 1 to 5} of a signal, the mean over windows of 9 s every second.

    A shorter signal is repeated. Samples beyond full scale are clipped.

    Args:
        wav: (time,), at least one sample.
        sample_rate: must be 16000.

    Raises:
        ValueError: for another sample rate.
        InputError: ``speechmos`` is not installed.
    """
    if sample_rate != RATE:
        raise ValueError(f"DNSMOS is defined at {RATE} Hz, got {sample_rate} Hz; resample first")
    return _ratings(np.clip(wav, -1.0, 1.0).astype(np.float32).tobytes())


@lru_cache(maxsize=1)  # one computation gives the four ratings, which are asked for one after the other
def _ratings(samples: bytes) -> dict[str, float]:
    require()
    from speechmos import dnsmos

    found = dnsmos.run(np.frombuffer(samples, dtype=np.float32), RATE)
    return {name: float(found[key]) for name, key in _KEYS.items()}
