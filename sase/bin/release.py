"""Release an experiment's best weights, with a model card."""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase release", description=__doc__)
    parser.add_argument("--exp", required=True, help="the experiment: best.pt, config.yaml, history.jsonl")
    parser.add_argument("--scores", required=True, metavar="DIR", help="scores of the test set from stage 5")
    parser.add_argument("--name", required=True, help="of the weights")
    parser.add_argument("--notes", required=True, metavar="FILE", help="Markdown: data, licences, limitations")
    parser.add_argument("--out", help="output folder (the package's own)")
    args = parser.parse_args()

    from pathlib import Path

    from sase import pretrained
    from sase.evaluation.release import release
    from sase.processes import folder_lock

    with folder_lock(Path(args.exp), shared=True):
        for path in release(args.exp, args.scores, args.name, args.notes, args.out or pretrained.FOLDER):
            print(f"{path}: written")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "release")
