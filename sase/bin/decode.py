"""Enhance a dumped set with a trained model (stage 4)."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="exp/<tag>/best.pt, its folder, or a name")
    parser.add_argument("--data", required=True, metavar="DIR", help="the dumped set")
    parser.add_argument("--out", required=True, metavar="DIR", help="output folder for wav/UTT.wav and spk1.scp")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (%(default)s)")
    parser.add_argument("--nj", type=int, default=1, help="number of shards (%(default)s)")
    parser.add_argument("--job", type=int, help="process only this shard, from 1; --finish joins them")
    parser.add_argument("--finish", action="store_true", help="check that all shards are complete and write spk1.scp")
    args = parser.parse_args()
    if args.nj < 1:
        parser.error("--nj must be 1 or more")
    if args.job is not None and args.finish:
        parser.error("--job processes one shard, --finish joins them: use one of the two")

    import torch

    from sase.enhancer import Enhancer
    from sase.evaluation import decoding
    from sase.locking import output_lock

    torch.set_num_threads(1)  # shards run in parallel instead
    enhancer = Enhancer.from_pretrained(args.model, args.device, engine="torch", highs="drop", level=False)
    with output_lock(args.out, args.job):
        for job in () if args.finish else [args.job] if args.job is not None else range(1, args.nj + 1):
            decoding.decode_shard(enhancer, args.data, args.out, args.nj, job)
        if args.job is None:
            print(f"{args.out}: {decoding.finish(enhancer, args.data, args.out)} utterances, complete")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "decode")
