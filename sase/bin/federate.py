"""Train one network in several silos that keep their audio (stage 3); run the same command again to resume."""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase federate", description=__doc__)
    parser.add_argument("--config", help="YAML file of network and training, such as conf/train_small.yaml")
    parser.add_argument("--fl-config", help="YAML file of the federation, such as conf/fl.yaml")
    parser.add_argument("--silos", help="folder of 'sase partition' (deployment: omit it for silos on other machines)")
    parser.add_argument("--num-clients", type=int, help="number of silos (default: those in --silos, or the config's)")
    parser.add_argument(
        "--dev-set",
        help="the server's development set, a dump directory, on which every round is scored",
    )
    parser.add_argument("--exp", required=True, help="experiment folder")
    parser.add_argument("--engine", default="simulation", help="inproc, simulation or deployment (%(default)s)")
    parser.add_argument("--engine-option", action="append", default=[], metavar="A=B", help="option of the engine")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a key of --config")
    parser.add_argument("--fl-set", action="append", default=[], metavar="A=B", help="override a key of --fl-config")
    parser.add_argument("--seed", type=int, help="random seed (default: the config's)")
    parser.add_argument("--ngpu", type=int, default=0, help="0: CPU, 1: GPU (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: OMP_NUM_THREADS, or all cores)")
    parser.add_argument("--restart", action="store_true", help="discard the training in --exp and start over")
    running = parser.add_mutually_exclusive_group()
    for request, does in {
        "pause": "pause the training that runs in --exp after its present round; the silos stay connected",
        "continue": "end its pause",
        "stop": "stop it after its present round; to resume, run its command again",
    }.items():
        running.add_argument(f"--{request}", dest="request", action="store_const", const=request, help=does)
    parser.add_argument(
        "--stop-status",
        type=int,
        default=130,
        metavar="N",
        help="exit status after a --stop; 0 for a service that restarts what fails (%(default)s)",
    )
    args = parser.parse_args()
    required = {"--config": args.config, "--fl-config": args.fl_config, "--dev-set": args.dev_set}
    if args.request is None and (missing := [name for name, value in required.items() if value is None]):
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    if not 0 <= args.stop_status <= 255:
        parser.error(f"argument --stop-status: {args.stop_status} is not between 0 and 255")

    import importlib
    import logging
    from pathlib import Path
    from typing import cast

    import torch

    from sase.allocator import keep_freed_memory
    from sase.errors import InputError
    from sase.federated import ENGINES, Engine, requests
    from sase.federated.config import load_federated_config
    from sase.federated.inproc import count_silos
    from sase.private import make_private, private_files
    from sase.processes import folder_lock
    from sase.training.config import load_train_config
    from sase.training.launch import threads_per_process
    from sase.training.trainer import discard_training

    if args.request is not None:
        requests.ask(args.exp, args.request)
        print(
            f"{args.exp}: asked to {args.request}" + ("" if args.request == "continue" else " after the present round")
        )
        return
    if args.engine not in ENGINES:
        raise InputError(f"--engine {args.engine}: choose from {', '.join(ENGINES)}")
    if args.ngpu > torch.cuda.device_count() or args.ngpu > 1:
        raise InputError(f"--ngpu {args.ngpu}: silos train on one GPU; GPUs found: {torch.cuda.device_count()}")
    if bad := [option for option in args.engine_option if "=" not in option]:
        raise InputError(f"--engine-option {bad[0]}: must be name=value")
    config = load_train_config(args.config, args.set, args.seed)
    count = args.num_clients or (count_silos(args.silos) if args.silos else None)
    fed_config = load_federated_config(args.fl_config, [*args.fl_set, *([f"num_silos={count}"] if count else [])])
    keep_freed_memory()
    torch.set_num_threads(args.threads or threads_per_process(1))
    exp_dir = Path(args.exp)
    exp_dir.parent.mkdir(parents=True, exist_ok=True)
    with private_files(), folder_lock(exp_dir):
        make_private(exp_dir, recursive=False)
        make_private(exp_dir / "silos")
        requests.clear(exp_dir)
        if args.restart:
            discard_training(exp_dir)
        log_file = logging.FileHandler(exp_dir / "train.log", encoding="utf-8")
        handlers: list[logging.Handler] = [logging.StreamHandler(), log_file]
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
        engine = cast(Engine, importlib.import_module(ENGINES[args.engine]))
        options = dict(option.split("=", 1) for option in args.engine_option)
        device = "cuda" if args.ngpu else "cpu"
        try:
            engine.run(config, fed_config, args.silos, args.dev_set, args.exp, device, options)
        except requests.StoppedError:
            sys.exit(args.stop_status)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "federate")
