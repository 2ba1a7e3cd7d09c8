"""Train and score the rows of an ablation with every seed; finished runs are skipped, interrupted ones resume."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase ablation", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, such as conf/ablation.yaml")
    parser.add_argument("--train-set", required=True, metavar="DUMP", help="training set")
    parser.add_argument("--dev-set", required=True, metavar="DUMP", help="selects the best epoch; also scored")
    parser.add_argument("--test-set", required=True, metavar="DUMP", help="scored")
    parser.add_argument("--out", required=True, metavar="DIR", help="for trainings, RESULTS.md, images, summary.json")
    parser.add_argument("--row", action="append", help="only this row (repeat for more)")
    parser.add_argument("--seed", type=int, help="with one --row: train it in this process with this seed")
    parser.add_argument("--ngpu", type=int, default=0, choices=(0, 1), help="train on a GPU")
    parser.add_argument("--page", action="store_true", help="only write RESULTS.md of finished runs")
    args = parser.parse_args()
    if args.seed is not None and len(args.row or ()) != 1:
        parser.error("--seed requires exactly one --row")

    import logging
    from pathlib import Path

    import torch

    from sase.allocator import keep_freed_memory
    from sase.studies import ablation
    from sase.studies.ablation_page import write_page

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan = ablation.load_ablation(args.config)
    sets = ablation.Sets(*map(Path, (args.train_set, args.dev_set, args.test_set)))
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.seed is not None:
        ablation.run_one(plan, sets, args.out, args.row[0], args.seed, args.ngpu)
        return
    try:
        if not args.page:
            ablation.run_all(plan, sets, args.out, args.row, args.ngpu)
    finally:
        write_page(plan, sets, args.out)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "ablation")
