"""Validate data directories, and fix what can be fixed."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dirs", nargs="+", metavar="DIR", help="with wav.scp, spk1.scp, utt2spk; or mixtures.tsv")
    parser.add_argument(
        "--audio", action="store_true", help="also check that sound files exist and agree in rate and length"
    )
    parser.add_argument(
        "--fix", action="store_true", help="sort, and keep the utterances in all tables; old files go to DIR/.backup"
    )
    args = parser.parse_args()

    from pathlib import Path

    from sase.data import datadir
    from sase.data.mixtures import FILE, validate_mixtures
    from sase.processes import folder_lock

    for path in args.dirs:
        if (Path(path) / FILE).is_file():
            mixtures = validate_mixtures(Path(path) / FILE, args.audio)
            print(f"{path}: {len(mixtures)} mixtures, valid")
            continue
        if args.fix:
            with folder_lock(Path(path)):
                kept, total = datadir.fix_data_dir(path)
            print(f"{path}: kept {kept} of {total} utterances")
        data = datadir.validate_data_dir(path, audio=args.audio)
        print(f"{path}: {len(data)} utterances of {len(data.spk2utt)} speakers, valid")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "validate")
