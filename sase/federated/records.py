"""Files of a federated experiment folder: configurations, round records and round timings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sase.atomic import remove_leftovers, write_text
from sase.config import from_mapping, read_yaml, to_mapping, to_yaml
from sase.errors import InputError
from sase.federated.config import LATER, LENGTH, OPERATIONAL, FederatedConfig
from sase.federated.exchange import COMPANIONS
from sase.federated.layout import Layout
from sase.jsonfile import append_jsonl
from sase.training import config as training_config
from sase.training.checkpoint import check_fields, check_tensors, first_difference, with_number
from sase.training.config import TrainConfig
from sase.training.selection import SI_SNR

if TYPE_CHECKING:
    from sase.federated.admission import Admitted


def resume_key(configs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of ``{"train": mapping, "federated": mapping}`` that must match on resume, in the same form.

    These are both configs without timeouts, retries and memory limits. Keys missing in the config of an earlier version
    get their defaults.
    """
    federated = to_mapping(from_mapping(FederatedConfig, configs["federated"]))
    federated = {name: value for name, value in federated.items() if name not in OPERATIONAL}
    return {"train": training_config.resume_key(configs["train"]), "federated": federated}


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with its ``train`` and ``federated``, if it has both, as :func:`resume_key` returns them."""
    both = {"train", "federated"} <= settings.keys()
    return {**settings, **(resume_key(settings) if both else {})}


def without_later_defaults(federated: Mapping[str, Any]) -> dict[str, Any]:
    """Return a federated config as a mapping without the keys of :data:`LATER` that have their default.

    Silos of earlier versions accept it, and experiments of earlier versions keep their identifier.
    """
    defaults = to_mapping(FederatedConfig())
    return {name: value for name, value in federated.items() if name not in LATER or value != defaults[name]}


def experiment_id(config: Mapping[str, Any]) -> str:
    """Return the name by which silos distinguish experiments."""
    key = {**config, "federated": without_later_defaults(config["federated"])}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def check_configs(exp_dir: str | Path, train_config: TrainConfig, fed_config: FederatedConfig) -> dict[str, Any]:
    """Compare configs with ``config.yaml`` and ``fl.yaml`` of an experiment folder; return their :func:`resume_key`.

    The number of rounds may differ: the server's state decides about it.

    Raises:
        InputError: the folder was started with other configs.
    """
    folder, given = Path(exp_dir), {"train": to_mapping(train_config), "federated": to_mapping(fed_config)}
    wanted = resume_key(given)
    for part, path in {"train": folder / "config.yaml", "federated": folder / "fl.yaml"}.items():
        if path.exists():
            old = with_number(resume_key({**given, part: read_yaml(path)}), LENGTH, fed_config.num_rounds)
            if difference := first_difference(old[part], wanted[part]):
                raise InputError(
                    f"{path}: this folder was started with another config ({difference}); use another --tag"
                )
    return wanted


def write_configs(exp_dir: str | Path, train_config: TrainConfig, fed_config: FederatedConfig) -> None:
    """Write ``config.yaml`` and ``fl.yaml`` of an experiment folder, which is created if necessary."""
    folder = Path(exp_dir)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    write_text(folder / "config.yaml", to_yaml(train_config))
    write_text(folder / "fl.yaml", to_yaml(fed_config))


def check_server_state(state: Mapping[str, Any], arrays: Mapping[str, np.ndarray], layout: Layout) -> None:
    """Raise InputError for a server's state that is damaged or that of another network.

    Args:
        state: content of ``server.pt``, with the ``history`` of :class:`sase.federated.ledger.Ledger`.
        arrays: of the network: name to array.
        layout: of the network.
    """
    check_fields(state, {"controls": dict, "best_round": int, "refusals": dict})
    check_fields(state["optimizer"], {"first": dict, "second": dict})
    shapes = {name: value.shape for name, value in arrays.items()}
    weights = {name: shapes[name] for name in layout.weights}
    if state.get("newest"):  # missing in states of an earlier version
        check_tensors(state["newest"], shapes, "the newest model")
    companions = {prefix + name: shape for prefix in COMPANIONS for name, shape in weights.items()}
    check_tensors(state.get("moments", {}), companions, "the silos' moments", all_names=False)
    for moment in ("first", "second"):
        check_tensors(state["optimizer"][moment], weights, f"the {moment} moment", all_names=False)
    for record in state["history"]:
        check_fields(record, {"silos": dict, SI_SNR: (int, float)})
        for values in record["silos"].values():
            check_fields(values, {"examples": (int, float), "update_norm": (int, float)})


def silo_record(reply: Admitted, alpha: float) -> dict[str, float]:
    """Return what the record of a round holds of an admitted reply, with its weight."""
    values = {name: reply.metrics[name] for name in ("examples", "steps", "loss", "last_loss")}
    values |= {"bad_steps": reply.metrics.get("bad_steps", 0.0), "update_norm": reply.update_norm, "alpha": alpha}
    if reply.gain_db is not None:
        values["gain_db"] = reply.gain_db
    late = {"staleness": reply.staleness} if reply.staleness else {}
    return {**{name: round(float(value), 6) for name, value in values.items()}, "bytes": reply.bytes, **late}


def add_timing(
    exp_dir: str | Path, round_number: int, seconds: Mapping[str, float], replies: Iterable[Admitted]
) -> None:
    """Append a line to ``round_timing.jsonl``, separate from the rounds because timings are not reproducible.

    Args:
        exp_dir: the experiment folder.
        round_number: from 1.
        seconds: duration of each phase on the server.
        replies: the admitted replies, with the timings that the silos report.
    """
    replies = list(replies)
    names = {"silos": "seconds", "train": "train_seconds", "train_began": "train_began"}
    reported = {to: {str(r.silo): round(r.metrics.get(name, 0.0), 3) for r in replies} for to, name in names.items()}
    phases = {name: round(value, 3) for name, value in seconds.items()}
    append_jsonl(Path(exp_dir) / "round_timing.jsonl", {"round": round_number, **phases, **reported})
