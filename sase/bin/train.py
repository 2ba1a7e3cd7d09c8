"""Train a network centrally (stage 3); run again, it goes on where it was stopped."""

import argparse
import os


def main():
    parser = argparse.ArgumentParser(prog="sase train", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, as conf/train_small.yaml")
    parser.add_argument("--train-set", required=True, help="dump directory to train on")
    parser.add_argument("--dev-set", required=True, help="dump directory that chooses the best checkpoint")
    parser.add_argument("--exp", required=True, help="experiment folder")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a key of the config")
    parser.add_argument("--seed", type=int, help="replaces the config's")
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs; several are driven by torchrun")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    args = parser.parse_args()

    import logging
    from pathlib import Path

    import torch

    from sase.errors import InputError
    from sase.training.arithmetic import keep_freed_memory
    from sase.training.config import load_train_config
    from sase.training.distributed import join_workers
    from sase.training.trainer import Trainer

    if args.ngpu > torch.cuda.device_count():
        raise InputError(f"--ngpu {args.ngpu}: this machine shows {torch.cuda.device_count()}; use --ngpu 0 for the CPU")
    config = load_train_config(args.config, args.set, args.seed)
    if args.ngpu > 1 and "RANK" not in os.environ:
        import sys

        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.ngpu}", "-m", "sase.bin.train"]
        os.execv(sys.executable, [sys.executable, *launcher, *sys.argv[1:]])
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    keep_freed_memory()
    workers, handlers = join_workers(use_gpu=args.ngpu > 0), [logging.StreamHandler()]
    if workers.leads:
        Path(args.exp).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(args.exp) / "train.log"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
    trainer = Trainer(config, args.train_set, args.dev_set, args.exp, workers)
    trainer.run()
    workers.leave()


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "train")
