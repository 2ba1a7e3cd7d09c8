"""Compare ways of training in silos, as one YAML file says; run again, it goes on with what is missing."""

import argparse


def main():
    parser = argparse.ArgumentParser(prog="sase compare", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, as conf/compare_strategies.yaml")
    parser.add_argument("--silos", required=True, metavar="DIR", help="folder of 'sase partition'")
    parser.add_argument("--dev-set", required=True, metavar="DUMP", help="the server's development set")
    parser.add_argument("--test-set", required=True, metavar="DUMP", help="the common test set")
    parser.add_argument("--out", required=True, metavar="DIR", help="where all trainings, RESULTS.md and images/ go")
    parser.add_argument("--row", action="append", help="only this row (again for more)")
    parser.add_argument("--seed", type=int, help="with one --row: train it here with this seed, and nothing else")
    parser.add_argument("--page", action="store_true", help="write RESULTS.md of what is done, train nothing")
    args = parser.parse_args()
    if args.seed is not None and len(args.row or ()) != 1:
        parser.error("--seed goes with one --row")

    import logging
    from pathlib import Path

    import torch

    from sase.studies import comparison
    from sase.studies.comparison_page import write_page
    from sase.training.performance import keep_freed_memory

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan = comparison.load_comparison(args.config)
    folders = comparison.Folders(*map(Path, (args.silos, args.dev_set, args.test_set, args.out)))
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.seed is not None:
        comparison.run_one(plan, folders, args.row[0], args.seed)
        return
    try:
        if not args.page:
            comparison.run_all(plan, folders, args.row)
    finally:  # what is done is told, whatever failed
        write_page(plan, folders, comparison.before_training(plan, folders))


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "compare")
