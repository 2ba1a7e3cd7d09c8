"""Partition a dumped set into silos for federated training, and show how heterogeneous they are."""


def main() -> None:
    import argparse

    from sase.federated.partition import METHODS

    parser = argparse.ArgumentParser(prog="sase partition", description=__doc__)
    parser.add_argument("--train", required=True, metavar="DUMP", help="dumped training set")
    parser.add_argument("--test", metavar="DUMP", help="dumped test set, split too if the method allows it")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="output folder for silo0/, silo1/, ... and partition.md"
    )
    parser.add_argument(
        "--by",
        choices=METHODS,
        default="silo",
        help="silo: as assigned by stage 1; the others regroup the pairs (%(default)s)",
    )
    parser.add_argument("--num-silos", type=int, default=4, help="number of silos (%(default)s)")
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="dirichlet: the smaller, the more heterogeneous (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="dirichlet: random seed (%(default)s)")
    args = parser.parse_args()
    if args.num_silos < 1:
        parser.error("--num-silos must be 1 or more")

    from pathlib import Path

    from sase.federated.partition import partition
    from sase.processes import folder_lock

    with folder_lock(Path(args.out)):
        partition(args.train, args.test, args.out, args.by, args.num_silos, args.alpha, args.seed)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "partition")
