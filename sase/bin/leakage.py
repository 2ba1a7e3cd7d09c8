"""Measure what a silo's update reveals of its audio: inversion and identification; finished rows are skipped."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase leakage", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file of network and training")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a key of --config")
    parser.add_argument("--data", required=True, metavar="DUMP", help="the audio, a dump directory")
    parser.add_argument("--out", required=True, metavar="DIR", help="for the numbers, the figures and RESULTS.md")
    parser.add_argument("--steps", type=int, default=40, help="steps of an inversion (%(default)s)")
    parser.add_argument("--candidates", type=int, default=50, help="recordings of the identification (%(default)s)")
    parser.add_argument("--victims", type=int, default=10, help="silos whose updates are identified (%(default)s)")
    parser.add_argument("--inverted", type=int, default=3, help="of them, silos to invert (%(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="repetitions with other noise (%(default)s)")
    parser.add_argument("--row", action="append", help="only this row (repeat for more)")
    args = parser.parse_args()

    import logging
    from pathlib import Path

    import torch

    from sase.data.dataset import PairSet
    from sase.errors import InputError
    from sase.processes import folder_lock
    from sase.studies import leakage
    from sase.studies.leakage_page import write_page
    from sase.studies.leakage_setting import ROWS, Attack
    from sase.training.config import load_train_config

    if unknown := [row for row in args.row or () if row not in ROWS]:
        raise InputError(f"--row {unknown[0]}: choose from {'; '.join(ROWS)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    config = load_train_config(args.config, args.set)
    pairs = PairSet(args.data, config.model.sample_rate)
    attack = Attack(config, pairs, args.steps, args.candidates, args.victims, args.inverted, args.seeds)
    with folder_lock(Path(args.out)):
        results = leakage.run(attack, args.out, args.row or tuple(ROWS))
        write_page(attack, results, args.out)
    print(Path(args.out) / "RESULTS.md")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "leakage")
