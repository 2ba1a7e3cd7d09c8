"""Share a dumped set out to the silos of federated training, and show how unlike they are."""


def main():
    import argparse

    from sase.federated.partition import METHODS

    parser = argparse.ArgumentParser(prog="sase partition", description=__doc__)
    parser.add_argument("--train", required=True, metavar="DUMP", help="dumped training set")
    parser.add_argument("--test", metavar="DUMP", help="dumped test set, split too where that has a meaning")
    parser.add_argument("--out", required=True, metavar="DIR", help="where silo0/, silo1/, ... and partition.md go")
    parser.add_argument(
        "--by", choices=METHODS, default="silo", help="silo: as stage 1 decided; the others take pairs as they are"
    )
    parser.add_argument("--num-silos", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--alpha", type=float, default=0.5, help="of dirichlet: small is unlike (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of dirichlet (%(default)s)")
    args = parser.parse_args()
    if args.num_silos < 1:
        parser.error("--num-silos must be 1 or more")

    from sase.federated.partition import partition

    partition(args.train, args.test, args.out, args.by, args.num_silos, args.alpha, args.seed)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "partition")
