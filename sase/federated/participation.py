"""Which silos take part in a round, and what a late reply counts."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sase.atomic import write_text
from sase.errors import InputError
from sase.private import private_files

SECRET_FILE = "sampling.key"  # in the experiment folder
_SECRET_BYTES = 32


def sampled_silos(num_silos: int, count: int, seed: int, number: int, attempt: int) -> tuple[int, ...]:
    """Return the silos of a round, sorted: all, or ``count`` different ones, each equally likely.

    Args:
        num_silos: number of silos.
        count: how many take part.
        seed: of the experiment.
        number: of the round.
        attempt: at this round, from 0; the others have other silos, since those of one may all be absent.
    """
    if count >= num_silos:
        return tuple(range(num_silos))
    generator = np.random.default_rng([seed, number, attempt])
    return tuple(sorted(generator.choice(num_silos, count, replace=False).tolist()))


class SecretSampling:
    """Poisson sampling: every silo takes part in a round independently of all others and all other rounds.

    It is drawn by a secret that only the server has, in ``sampling.key`` with mode 0600: who could compute the samples
    would know more than the accounting of their privacy assumes. A server that resumes draws the same ones.

    Args:
        exp_dir: the experiment folder.
        probability: of each silo in each round.
    """

    def __init__(self, exp_dir: str | Path, probability: float) -> None:
        self.path, self.probability = Path(exp_dir) / SECRET_FILE, probability
        self._secret = b""

    def load(self, rounds: int) -> None:
        """Read the secret, or make it if no round is completed.

        Raises:
            InputError: it is missing or damaged.
        """
        if not rounds and not self.path.exists():
            with private_files():
                write_text(self.path, secrets.token_hex(_SECRET_BYTES) + "\n")
        try:
            self._secret = bytes.fromhex(self.path.read_text().strip())
        except (FileNotFoundError, ValueError):
            self._secret = b""
        if len(self._secret) != _SECRET_BYTES:
            raise InputError(
                f"{self.path}: missing or damaged; restore it: it decides which silos take part, or start over with "
                "--restart"
            )

    def silos(self, num_silos: int, number: int) -> tuple[int, ...]:
        """Return the silos of a round, sorted: possibly none.

        Args:
            num_silos: number of silos.
            number: of the round.
        """

        def value(silo: int) -> int:
            return int.from_bytes(hmac.digest(self._secret, f"round {number} silo {silo}".encode(), "sha256")[:8])

        return tuple(silo for silo in range(num_silos) if value(silo) < self.probability * 2.0**64)


def staleness_factors(staleness: Sequence[int]) -> np.ndarray:
    """Return (1 + s)^−½ for updates to a model that is s rounds old (FedBuff, Nguyen et al. 2022): float64 (silos,)."""
    return (1.0 + np.asarray(staleness, dtype=np.float64)) ** -0.5


class Rebased(Mapping[str, np.ndarray]):
    """A late model whose update is applied to a newer one: ``new + (late − old)``, computed when it is read.

    Args:
        late: name to array.
        old: the model from which it was trained.
        new: the model to which it is applied.
        names: of the weights; all other arrays are those of ``late``.
    """

    def __init__(
        self,
        late: Mapping[str, np.ndarray],
        old: Mapping[str, np.ndarray],
        new: Mapping[str, np.ndarray],
        names: Sequence[str],
    ) -> None:
        self._late, self._old, self._new, self._weights = late, old, new, frozenset(names)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._weights:
            return self._late[name]
        late, old, new = (np.asarray(of[name], dtype=np.float64) for of in (self._late, self._old, self._new))
        return np.asarray(new + (late - old))

    def __iter__(self) -> Iterator[str]:
        return iter(self._late)

    def __len__(self) -> int:
        return len(self._late)
