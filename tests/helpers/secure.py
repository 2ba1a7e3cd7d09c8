"""Silos and servers of secure sums without networks: their updates are vectors that a test chooses."""

from dataclasses import replace

import numpy as np

from sase.federated.certificates import make_silo_key
from sase.federated.config import FederatedConfig
from sase.federated.secure.fixed_point import FixedPoint
from sase.federated.secure.identity import Roster, canonical
from sase.federated.secure.server import SecureSum
from sase.federated.secure.session import Terms, Weights
from sase.federated.secure.silo import SecureSilo

BATCH = 2
TERMS = Terms("experiment", 1, "the global model", "the configs")


def make_silos(folder, count):
    """Return silos with registered keys, each with its own state folder."""
    for index in range(count):
        make_silo_key(folder / f"silo{index}")
        (folder / "roster").mkdir(exist_ok=True)
        (folder / f"roster/silo{index}.pub").write_bytes((folder / f"silo{index}/silo.pub").read_bytes())
    return load_silos(folder, count)


def load_silos(folder, count):
    """Return the silos of :func:`make_silos` as after a restart: what they know is on disk."""
    return [
        SecureSilo.load(i, folder / f"silo{i}/silo.key", folder / "roster", folder / f"silo{i}/state/secure")
        for i in range(count)
    ]


def load_roster(folder):
    return Roster.load(folder / "roster")


class Round:
    """An honest server's round over silos whose updates are given, one message at a time."""

    def __init__(self, silos, updates, examples, config=None, terms=TERMS, limit=8.0):
        self.silos, self.updates, self.examples, self.limit = silos, updates, examples, limit
        self.config = config or FederatedConfig()
        self.sum = SecureSum(terms, silos[0].roster, 3)
        self.bytes = 0

    def ask(self, silos, function):
        answers = {silo: function(self.silos[silo]) for silo in silos}
        self.bytes += sum(len(canonical(answer)) for answer in answers.values())
        return answers

    def keys(self, silos):
        return self.sum.settle(self.ask(silos, lambda s: s.keys(self.sum.terms, self.examples[s.index])))

    def shares(self, silos):
        listed = list(self.sum.announcements.values())
        return self.sum.collect_shares(self.ask(silos, lambda s: s.shares(listed)))

    def masked(self, silos, shares=None, complete=False):
        shares = {str(silo): of for silo, of in (shares or self.sum.shares).items()}
        return {silo: self.silos[silo].masked(self.sum.terms, shares, self.encoder(silo), complete) for silo in silos}

    def encoder(self, silo):
        def encode(session, silos):
            weights = Weights.settle(session, silos, self.config, BATCH)
            number = FixedPoint("uint32", self.limit, len(silos))
            return {"weights": number.encode(self.updates[silo], weights.shares[silo])}, {}

        return encode

    def unmasked(self, masked, helpers=None):
        """Return the weighted mean of the masked updates, with the help of these silos' shares."""
        survivors = self.sum.close(masked)
        helpers = survivors if helpers is None else helpers
        signed = self.sum.signatures(self.ask(survivors, lambda s: s.agree(survivors)))
        totals = self.sum.total(masked, self.ask(helpers, lambda s: s.unmask(signed)), ["weights"])
        present = sorted(self.sum.shares)
        weights = Weights.settle(self.sum.session, present, self.config, BATCH)
        _, factor, _ = weights.of_survivors(survivors)
        return factor * FixedPoint("uint32", self.limit, len(present)).decode(totals["weights"])


def other_model(name, number):
    """Return the terms of another round with another global model."""
    return replace(TERMS, model=name, round=number)


def vectors(count, size=1000, seed=0):
    """Return one update per silo, of the magnitude of a round of training."""
    generator = np.random.default_rng(seed)
    return [1e-2 * generator.standard_normal(size) for _ in range(count)]
