"""Stage 1: write the data directories tr, cv and tt of a corpus."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")

    pairs = corpora.add_parser("voicebank_demand", help="noisy and clean files in the layout of VoiceBank+DEMAND")
    pairs.add_argument(
        "--dev-speakers", default="p226 p287", help="the speakers of cv, separated by spaces (default: %(default)s)"
    )
    pairs.add_argument("--trainset", choices=["28spk", "56spk"], help="(default: the first one found)")

    mixed = corpora.add_parser("commonvoice", help="Common Voice and a folder of noises: lists of mixtures")
    mixed.add_argument("--noise", required=True, help="folder of noises, such as NOISEX-92")
    mixed.add_argument(
        "--silos", type=int, default=4, help="each with its own speakers and noises (default: %(default)s)"
    )
    mixed.add_argument("--seed", type=int, default=0, help="same seed, same lists (default: %(default)s)")

    own = corpora.add_parser("folders", help="any folders of speech and of noise: lists of mixtures, no test set")
    own.add_argument("--speech", action="append", required=True, help="folder of clean speech; may be repeated")
    own.add_argument("--noise", action="append", required=True, help="folder of noises; may be repeated")
    own.add_argument("--generated", type=int, default=0, help="additional files of each computed noise (%(default)s)")
    own.add_argument(
        "--held-out", default="", help="noises that are not used, patterns separated by spaces: '*siren* crowd'"
    )
    own.add_argument("--rooms", action="append", default=[], help="folder of impulse responses of rooms, for tr")
    own.add_argument("--seed", type=int, default=0, help="same seed, same lists (default: %(default)s)")

    for each in (pairs, mixed):
        each.add_argument("--corpus", dest="corpus_dir", required=True, help="folder of the corpus")
        each.add_argument(
            "--skip-bad-test", action="store_true", help="leave bad test utterances out; marks the results"
        )
    for each in (pairs, mixed, own):
        each.add_argument("--data", required=True, help="output: DATA/tr, DATA/cv and DATA/tt are replaced")
    args = parser.parse_args()
    if args.corpus == "commonvoice" and args.silos < 1:
        parser.error("--silos must be 1 or more")

    from pathlib import Path

    from sase.processes import folder_lock

    with folder_lock(Path(args.data)):
        if args.corpus in ("commonvoice", "folders"):
            from sase.data.corpora import commonvoice, folders

            if args.corpus == "folders":
                sets = folders.prepare(
                    args.speech,
                    args.noise,
                    args.data,
                    args.generated,
                    seed=args.seed,
                    held_out=args.held_out.split(),
                    room_dirs=args.rooms,
                )
            else:
                sets = commonvoice.prepare(
                    args.corpus_dir, args.noise, args.data, args.silos, args.seed, skip_bad_test=args.skip_bad_test
                )
            for name, mixtures in sets.items():
                speakers, noises = ({getattr(m, what) for m in mixtures.values()} for what in ("speaker", "noise"))
                counts = f"{len(mixtures)} mixtures of {len(speakers)} speakers and {len(noises)} noises"
                print(f"{args.data}/{name}/mixtures.tsv: {counts}")
            return
        from sase.data.corpora.voicebank_demand import prepare

        data_dirs = prepare(args.corpus_dir, args.data, args.dev_speakers.split(), args.trainset, args.skip_bad_test)
        for name, data in data_dirs.items():
            unknown = len(data) - len(data.utt2noise)
            note = f"; the noise of {unknown} is not in the corpus' log" if unknown else ""
            print(f"{args.data}/{name}: {len(data)} utterances of {len(data.spk2utt)} speakers{note}")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "prepare")
