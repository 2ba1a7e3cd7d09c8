"""Release an experiment's best weights, with a model card."""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase release", description=__doc__)
    parser.add_argument("--exp", help="the experiment: best.pt, config.yaml, history.jsonl")
    parser.add_argument("--scores", metavar="DIR", help="scores of the test set from stage 5")
    parser.add_argument("--name", help="name of the weights")
    parser.add_argument("--notes", metavar="FILE", help="Markdown: data, licences, limitations")
    parser.add_argument("--out", help="output folder (the package's own)")
    again = "instead: make the formats for other engines of released weights again"
    parser.add_argument("--refresh", metavar="NAME", help=again)
    args = parser.parse_args()
    needed = {f"--{name}": getattr(args, name) for name in ("exp", "scores", "name", "notes")}
    missing = [option for option, value in needed.items() if value is None]
    if args.refresh is None and missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    if args.refresh is not None and len(missing) < len(needed):
        parser.error("--refresh takes released weights, not an experiment")

    from pathlib import Path

    from sase import pretrained
    from sase.evaluation.release import refresh, release
    from sase.processes import folder_lock

    out = Path(args.out or pretrained.FOLDER)
    if args.refresh is not None:
        with folder_lock(out):
            for path in refresh(out / f"{args.refresh}.safetensors"):
                print(f"{path}: written")
        return
    with folder_lock(Path(args.exp), shared=True), folder_lock(out):
        for path in release(args.exp, args.scores, args.name, args.notes, out):
            print(f"{path}: written")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "release")
