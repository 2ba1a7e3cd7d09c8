"""What an experiment folder tells of a federated training: its configs, its rounds, and how long they took."""

from pathlib import Path

from sase.atomic import remove_leftovers, write_text
from sase.config import from_mapping, read_yaml, to_mapping, to_yaml
from sase.errors import InputError
from sase.federated.config import OPERATIONAL, FederatedConfig
from sase.jsonfile import append_jsonl, write_jsonl
from sase.training import config as training_config
from sase.training.checkpoint import first_difference


def resume_key(configs):
    """Return what decides the numbers, of ``{"train": mapping, "federated": mapping}``, in the same form.

    That is both configs without what only says how long to wait, or how much memory to use. What an earlier version did
    not know is what it is by default.
    """
    federated = to_mapping(from_mapping(FederatedConfig, configs["federated"]))
    federated = {name: value for name, value in federated.items() if name not in OPERATIONAL}
    return {"train": training_config.resume_key(configs["train"]), "federated": federated}


def check_and_write_configs(exp_dir, train_config, fed_config):
    """Write ``config.yaml`` and ``fl.yaml`` of an experiment folder; return what of them is decisive.

    Raises:
        InputError: the folder was begun with other configs.
    """
    folder, given = Path(exp_dir), {"train": to_mapping(train_config), "federated": to_mapping(fed_config)}
    wanted, paths = resume_key(given), {"train": folder / "config.yaml", "federated": folder / "fl.yaml"}
    for part, path in paths.items():
        if path.exists():
            old = resume_key({**given, part: read_yaml(path)})
            if difference := first_difference(old[part], wanted[part]):
                raise InputError(f"{path}: this folder was begun with another config ({difference}); use another --tag")
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    write_text(paths["train"], to_yaml(train_config))
    write_text(paths["federated"], to_yaml(fed_config))
    return wanted


def write_rounds(exp_dir, history):
    """Write ``rounds.jsonl``, one mapping a round: the same for the same seed, to the bit."""
    write_jsonl(Path(exp_dir) / "rounds.jsonl", history)


def add_timing(exp_dir, number, seconds, replies):
    """Append a line to ``round_timing.jsonl``, which stands beside the rounds since it is never the same.

    Args:
        number: of the round.
        seconds: what to seconds.
        replies: list of :class:`sase.federated.admission.Admitted`; what silos say of their own time is told as well.
    """
    names = {"silos": "seconds", "train": "train_seconds", "train_began": "train_began"}
    told = {to: {str(r.silo): round(r.metrics.get(name, 0.0), 3) for r in replies} for to, name in names.items()}
    seconds = {name: round(value, 3) for name, value in seconds.items()}
    entry = {"round": number, **seconds, **told}
    append_jsonl(Path(exp_dir) / "round_timing.jsonl", entry)
