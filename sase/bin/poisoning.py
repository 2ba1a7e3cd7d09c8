"""Let some silos of a federation send harmful replies, under every aggregation rule; finished runs are skipped."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase poisoning", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, such as conf/poisoned_silos.yaml")
    parser.add_argument("--silos", required=True, metavar="DIR", help="folder with partitions of 'sase partition'")
    parser.add_argument("--dev-set", required=True, metavar="DUMP", help="the server's development set")
    parser.add_argument("--out", required=True, metavar="DIR", help="for trainings and RESULTS.md")
    parser.add_argument("--row", action="append", help="only this row of the grid (repeat for more)")
    parser.add_argument("--seed", type=int, help="with one --row: train it in this process with this seed")
    args = parser.parse_args()
    if args.seed is not None and len(args.row or ()) != 1:
        parser.error("--seed requires exactly one --row")

    import logging
    from pathlib import Path

    import torch

    from sase.allocator import keep_freed_memory
    from sase.studies import poisoning
    from sase.studies.poisoning_page import write_page

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan = poisoning.load_poisoning(args.config)
    folders = poisoning.Folders(*map(Path, (args.silos, args.dev_set, args.out)))
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.seed is not None:
        poisoning.run_one(plan, folders, args.row[0], args.seed)
        return
    try:
        poisoning.run_all(plan, folders, args.row)
    finally:  # show what is finished even after a failure
        write_page(plan, folders)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "poisoning")
