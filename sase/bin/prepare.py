"""Stage 1: write the data directories tr, cv and tt of a corpus."""

import argparse


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", choices=["voicebank_demand"], help="the layout of the corpus")
    parser.add_argument("--corpus", dest="corpus_dir", required=True, help="its folder")
    parser.add_argument("--data", required=True, help="where to: DATA/tr, DATA/cv and DATA/tt are replaced")
    parser.add_argument(
        "--dev-speakers", default="p226 p287", help="the speakers of cv, separated by spaces (default: %(default)s)"
    )
    parser.add_argument("--trainset", choices=["28spk", "56spk"], help="(default: the first that is there)")
    args = parser.parse_args()

    from sase.corpora.voicebank_demand import prepare

    sets = prepare(args.corpus_dir, args.data, args.dev_speakers.split(), args.trainset)
    for name, data in sets.items():
        unknown = len(data) - len(data.utt2noise)
        note = f"; the noise of {unknown} is not in the corpus' log" if unknown else ""
        print(f"{args.data}/{name}: {len(data)} utterances of {len(data.spk2utt)} speakers{note}")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "prepare")
