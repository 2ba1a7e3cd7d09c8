"""Train a network centrally (stage 3); resumes from the last checkpoint."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase train", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, e.g. conf/train_small.yaml")
    parser.add_argument("--train-set", required=True, help="dump directory to train on")
    parser.add_argument(
        "--dev-set",
        required=True,
        nargs="+",
        metavar="DUMP",
        help="dump directories that select the best checkpoint; of several, by the mean of their scores",
    )
    parser.add_argument("--exp", required=True, help="experiment folder")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a configuration key")
    parser.add_argument("--seed", type=int, help="replaces the seed of the configuration")
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs per machine, one process each; 0: the CPU")
    parser.add_argument(
        "--processes", type=int, help="per machine; each batch is sharded over them (one per GPU, or one)"
    )
    parser.add_argument(
        "--num-nodes", type=int, default=1, help="number of machines; run the command on each (%(default)s)"
    )
    parser.add_argument("--node-rank", type=int, default=0, help="rank of this machine, from 0")
    parser.add_argument("--rendezvous", metavar="WHERE", help="HOST:PORT of node 0, or a new file on a shared disk")
    parser.add_argument(
        "--threads", type=int, help="CPU threads per process (OMP_NUM_THREADS, or an equal share of the cores)"
    )
    parser.add_argument("--restart", action="store_true", help="discard the training in --exp and start over")
    args = parser.parse_args()

    import logging
    from contextlib import ExitStack
    from pathlib import Path

    import torch

    from sase.allocator import keep_freed_memory
    from sase.errors import InputError
    from sase.processes import folder_lock
    from sase.training.config import load_train_config
    from sase.training.distributed import init_workers
    from sase.training.launch import (
        abort_launcher_on_error,
        launch,
        processes_per_node,
        threads_per_process,
        under_torchrun,
    )
    from sase.training.trainer import Trainer, discard_training

    processes = processes_per_node(args.ngpu, args.processes)
    if not 0 <= args.node_rank < args.num_nodes:
        raise InputError(
            f"--node-rank {args.node_rank}: must be from 0 to {args.num_nodes - 1}, as --num-nodes is {args.num_nodes}"
        )
    config = load_train_config(args.config, args.set, args.seed)
    threads = args.threads or threads_per_process(processes)
    if args.restart and args.node_rank == 0 and not under_torchrun():
        with folder_lock(Path(args.exp)):
            discard_training(args.exp)
    if (processes > 1 or args.num_nodes > 1) and not under_torchrun():
        launch(processes, threads, args.num_nodes, args.node_rank, args.rendezvous)
        return
    torch.set_num_threads(threads)
    keep_freed_memory()
    with abort_launcher_on_error(), ExitStack() as locked:
        workers = init_workers(use_gpu=args.ngpu > 0)
        handlers: list[logging.Handler] = [logging.StreamHandler()]
        if workers.is_main:
            locked.enter_context(folder_lock(Path(args.exp)))
            handlers.append(logging.FileHandler(Path(args.exp) / "train.log", encoding="utf-8"))
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
        Trainer(config, args.train_set, args.dev_set, args.exp, workers).run()
        workers.shut_down()


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "train")
