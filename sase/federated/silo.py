"""One silo: its local round, and the state that never leaves its disk."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Instruction:
    """What the server tells every silo at the beginning of a round.

    Attributes:
        round: from 1.
        arrays: the global model by its names in the state dict: weights and norm statistics (float32), counters (int);
            under ``control/NAME`` SCAFFOLD's global control variate. Never the constants of the network.
        config: plain types, JSON can hold it: ``train`` and ``federated`` (the two configs as mappings), ``experiment``
            (an identifier), ``best_round`` (the best so far, 0 for none).
    """

    round: int
    arrays: dict[str, np.ndarray]
    config: dict


@dataclass(frozen=True)
class Reply:
    """What a silo answers.

    Attributes:
        silo: its index.
        round: of the instruction.
        arrays: as :func:`sase.federated.payload.encode` gives them (float32, uint16, int8 or int64 arrays).
        metrics: name to float; the same names from every silo: ``examples``, ``steps``, ``bad_steps``, ``loss`` (mean),
            ``last_loss`` (mean of the last local epoch), ``update_norm``, ``bytes``, ``seconds``, ``train_seconds``.
    """

    silo: int
    round: int
    arrays: dict[str, np.ndarray]
    metrics: dict[str, float] = field(default_factory=dict)


class Silo:
    """One silo. A round is decided by the instruction and by this silo's state of the round before, so it can be repeated.

    Args:
        index: which one, from 0.
        data_dir: holds ``tr/``, a dump directory, and perhaps ``tt/``.
        state_dir: on the silo's own disk; for ``state-<round>.pt``.
        device: where to train.
    """

    def __init__(self, index, data_dir, state_dir, device="cpu"):
        raise NotImplementedError

    def run(self, instruction):
        """Train one round; return the :class:`Reply`. Raises InputError for bad data or training that went astray."""
        raise NotImplementedError

    def evaluate(self, instruction, personal, measures=("SI_SDR", "PESQ_WB", "STOI"), subset="tt"):
        """Score the instruction's model on this silo's own test part.

        Args:
            instruction: its ``round`` is one more than that of the model in it.
            personal: whether with the silo's own norm layers of that round.
            measures: of :data:`sase.metrics.METRICS`.
            subset: folder within the data directory.

        Returns:
            Measure to mean over the utterances, and ``utterances``.
        """
        raise NotImplementedError
