"""Stage 1: write the data directories tr, cv and tt of a corpus."""

import argparse


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")

    pairs = corpora.add_parser("voicebank_demand", help="noisy and clean files in the layout of VoiceBank+DEMAND")
    pairs.add_argument(
        "--dev-speakers", default="p226 p287", help="the speakers of cv, separated by spaces (default: %(default)s)"
    )
    pairs.add_argument("--trainset", choices=["28spk", "56spk"], help="(default: the first that is there)")

    mixed = corpora.add_parser("commonvoice", help="Common Voice and a folder of noises: lists of mixtures")
    mixed.add_argument("--noise", required=True, help="folder of noises, as of NOISEX-92")
    mixed.add_argument("--silos", type=int, default=4, help="with own speakers and noises each (default: %(default)s)")
    mixed.add_argument("--seed", type=int, default=0, help="same seed, same lists (default: %(default)s)")

    for each in (pairs, mixed):
        each.add_argument("--corpus", dest="corpus_dir", required=True, help="its folder")
        each.add_argument("--data", required=True, help="where to: DATA/tr, DATA/cv and DATA/tt are replaced")
    args = parser.parse_args()

    if args.corpus == "commonvoice":
        from sase.corpora.commonvoice import prepare

        if args.silos < 1:
            parser.error("--silos must be 1 or more")
        for name, mixtures in prepare(args.corpus_dir, args.noise, args.data, args.silos, args.seed).items():
            speakers, noises = ({getattr(m, what) for m in mixtures.values()} for what in ("speaker", "noise"))
            counts = f"{len(mixtures)} mixtures of {len(speakers)} speakers and {len(noises)} noises"
            print(f"{args.data}/{name}/mixtures.tsv: {counts}")
        return
    from sase.corpora.voicebank_demand import prepare

    sets = prepare(args.corpus_dir, args.data, args.dev_speakers.split(), args.trainset)
    for name, data in sets.items():
        unknown = len(data) - len(data.utt2noise)
        note = f"; the noise of {unknown} is not in the corpus' log" if unknown else ""
        print(f"{args.data}/{name}: {len(data)} utterances of {len(data.spk2utt)} speakers{note}")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "prepare")
