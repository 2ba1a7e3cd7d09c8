"""Compare federated strategies with each other and with silos alone and central training; finished runs are skipped."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase compare", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, such as conf/compare_strategies.yaml")
    parser.add_argument("--silos", required=True, metavar="DIR", help="folder made by 'sase partition'")
    parser.add_argument("--dev-set", required=True, metavar="DUMP", help="the server's development set")
    parser.add_argument("--test-set", required=True, metavar="DUMP", help="the common test set")
    parser.add_argument("--out", required=True, metavar="DIR", help="for trainings, RESULTS.md, images, summary.json")
    parser.add_argument("--row", action="append", help="only this row (repeat for more)")
    parser.add_argument("--seed", type=int, help="with one --row: train it in this process with this seed")
    parser.add_argument("--page", action="store_true", help="only write RESULTS.md of finished runs")
    args = parser.parse_args()
    if args.seed is not None and len(args.row or ()) != 1:
        parser.error("--seed requires exactly one --row")

    import logging
    from pathlib import Path

    import torch

    from sase.allocator import keep_freed_memory
    from sase.studies import comparison
    from sase.studies.comparison_page import write_page

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
    finally:  # show what is finished even after a failure
        write_page(plan, folders, comparison.before_training(plan, folders))


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "compare")
