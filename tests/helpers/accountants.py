"""ε of federations as two other accountants compute it: Google's dp-accounting and autodp.

Neither package is a requirement. ``python -m helpers.accountants``, in ``tests``, writes ``accountants.csv`` again with
both installed::

    pip install dp-accounting==0.6.0 autodp==0.2.3.1
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_suffix(".csv")
_STEPS = 3000.0  # of dp-accounting's grid in ε


@dataclass(frozen=True)
class Setting:
    """A federation whose silos clip and add noise.

    Attributes:
        silos: K.
        drawn: expected number of silos in a round, by Poisson sampling; ``silos``: all in every round.
        noise: standard deviation of a silo's noise, in units of the norm.
        rounds: T.
        delta: δ.
    """

    silos: int
    drawn: int
    noise: float
    rounds: int
    delta: float

    @property
    def total(self) -> float:
        """Standard deviation of the noise of the sum, in units of the norm."""
        return self.noise * math.sqrt(self.drawn)

    @property
    def probability(self) -> float:
        """With which a silo takes part."""
        return self.drawn / self.silos


def dp_accounting(setting: Setting) -> dict[str, float]:
    """Return dp-accounting's ε of the models, by privacy loss distributions that are composed over the rounds.

    Returns:
        ``removed``, ``added``, ``replaced``: if a silo is removed, is added, or all of its data are replaced.
    """
    from dp_accounting.pld.privacy_loss_distribution import NeighborRel, from_gaussian_mechanism

    def composed(step: float, relation: NeighborRel) -> Any:
        one = from_gaussian_mechanism(
            setting.total,
            value_discretization_interval=step,
            sampling_prob=setting.probability,
            neighboring_relation=relation,
        )
        return one.self_compose(setting.rounds)

    found = {}
    for relation in (NeighborRel.ADD_OR_REMOVE_ONE, NeighborRel.REPLACE_ONE):
        coarse = composed(1e-3, relation).get_epsilon_for_delta(setting.delta)
        fine = composed(min(max(coarse / _STEPS, 1e-6), 1e-3), relation)
        if relation == NeighborRel.REPLACE_ONE:
            found["replaced"] = fine.get_epsilon_for_delta(setting.delta)
        else:
            found["removed"] = fine._pmf_remove.get_epsilon_for_delta(setting.delta)
            found["added"] = fine._pmf_add.get_epsilon_for_delta(setting.delta)
    return found


def autodp(setting: Setting) -> dict[str, float]:
    """Return autodp's ε of the models: exact without sampling, with it a bound, from its Rényi accountant.

    Its exact accountant of sampled rounds (``ComposeAFA``) is left out, since version 0.2.3.1 gives negative ε.

    Returns:
        ``removed``, and without sampling ``replaced``, which has twice the sensitivity.
    """
    from autodp.mechanism_zoo import ExactGaussianMechanism, SubsampleGaussianMechanism

    if setting.drawn < setting.silos:
        params = {"prob": setting.probability, "sigma": setting.total, "coeff": setting.rounds}
        return {"removed": float(SubsampleGaussianMechanism(params).approxDP(setting.delta))}
    noise = setting.total / math.sqrt(setting.rounds)
    epsilons = [ExactGaussianMechanism(sigma=noise / moved).approxDP(setting.delta) for moved in (1.0, 2.0)]
    return dict(zip(("removed", "replaced"), map(float, epsilons)))


def row_of(setting: Setting) -> dict[str, float]:
    """Return a row of the table."""
    google = {f"dp_accounting_{name}": value for name, value in dp_accounting(setting).items()}
    return {**vars(setting), **google, **{f"autodp_{name}": value for name, value in autodp(setting).items()}}


def read_table() -> list[tuple[Setting, dict[str, float]]]:
    """Return the settings of the table, and what the two packages said of each."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        lines = [line for line in file if not line.startswith("#")]
    result = []
    for row in csv.DictReader(lines):
        values = {name: float(text) for name, text in row.items() if text}
        numbers = [values.pop(name) for name in Setting.__dataclass_fields__]
        silos, drawn, noise, rounds, delta = numbers
        result.append((Setting(int(silos), int(drawn), noise, int(rounds), delta), values))
    return result


def main() -> None:
    """Compute ε of all settings of the table again; for another setting, add a line with its first five columns."""
    rows = [row_of(setting) for setting, _ in read_table()]
    names = max(rows, key=len)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        versions = ", ".join(f"{name} {version(name)}" for name in ("dp-accounting", "autodp"))
        file.write(f"# {versions}; python -m helpers.accountants\n")
        writer = csv.DictWriter(file, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.8g}" for name, value in row.items()} for row in rows)


if __name__ == "__main__":
    main()
