"""The server: the global model, one round at a time, and everything needed to go on after being killed."""


class Server:
    """Holds the global model of an experiment; made again on the same folder, it goes on from the last whole round.

    Args:
        train_config: a :class:`sase.training.config.TrainConfig`.
        fed_config: a :class:`sase.federated.config.FederatedConfig`.
        dev_set: dump directory that scores every round.
        exp_dir: the experiment folder: ``config.yaml``, ``fl.yaml``, ``server.pt`` (the state), ``best.pt``, ``last.pt``,
            ``rounds.jsonl``, ``round_timing.jsonl``.
        device: where to score.
    """

    def __init__(self, train_config, fed_config, dev_set, exp_dir, device="cpu"):
        raise NotImplementedError

    @property
    def next_round(self):
        """The number of the next round, from 1."""
        raise NotImplementedError

    @property
    def finished(self):
        """Whether all rounds are done."""
        raise NotImplementedError

    def instruction(self):
        """Return the :class:`sase.federated.silo.Instruction` of the next round."""
        raise NotImplementedError

    def best_instruction(self):
        """Return the instruction with which :meth:`Silo.evaluate` scores the best model so far."""
        raise NotImplementedError

    def finish_round(self, replies, failures):
        """Take the answers of a round and make the next global model of them, unless they are too few.

        Args:
            replies: list of :class:`sase.federated.silo.Reply`, in any order.
            failures: list of str, one a silo that did not answer: who and why.

        Returns:
            True when the round advanced (and its state is on the disk), False when it must be repeated.
        """
        raise NotImplementedError


def run_rounds(server, exchange):
    """Run all rounds that are left.

    Args:
        server: a :class:`Server`.
        exchange: called with an instruction; returns the silos' replies and a line for each that failed. It waits no
            longer than ``round_timeout_s``.

    Raises:
        InputError: a round that did not advance in ``1 + max_repeats`` attempts. The last good model is kept.
    """
    raise NotImplementedError
