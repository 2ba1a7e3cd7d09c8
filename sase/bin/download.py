"""Stage 0: fetch or generate a corpus."""

import argparse


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")

    official = corpora.add_parser("voicebank_demand", help="VoiceBank+DEMAND, 5.6 GB from Edinburgh DataShare")
    official.add_argument("--dir", required=True, help="where to; what is there already is left alone or gone on with")
    official.add_argument("--trainset", default="28spk", choices=["28spk", "56spk"], help="(default: %(default)s)")
    official.add_argument("--remove-zips", action="store_true", help="delete each archive once it is unpacked")

    mini = corpora.add_parser("mini", help="a generated stand-in in the same layout: no network, half a minute")
    mini.add_argument("--dir", required=True, help="where to")
    mini.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: %(default)s)")

    args = parser.parse_args()
    if args.corpus == "mini":
        from sase.corpora.mini import download

        download(args.dir, args.seed)
    else:
        from sase.corpora.voicebank_demand import download

        download(args.dir, args.trainset, args.remove_zips)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "download")
