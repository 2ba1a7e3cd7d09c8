"""Stage 0: download or generate a corpus."""

import argparse
import importlib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")

    official = corpora.add_parser("voicebank_demand", help="VoiceBank+DEMAND, 5.6 GB from Edinburgh DataShare")
    official.add_argument(
        "--dir", required=True, help="output folder; existing files are kept, partial downloads resumed"
    )
    official.add_argument("--trainset", default="28spk", choices=["28spk", "56spk"], help="(default: %(default)s)")
    official.add_argument("--remove-zips", action="store_true", help="delete each archive once it is unpacked")

    mini = corpora.add_parser("mini", help="a generated stand-in in the layout of a corpus: offline, half a minute")
    mini.add_argument("--dir", required=True, help="output folder")
    mini.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: %(default)s)")
    mini.add_argument(
        "--language",
        choices=["english", "mandarin"],
        default="english",
        help="english: as VoiceBank+DEMAND; mandarin: as Common Voice, with a folder of noises (default: %(default)s)",
    )

    for name, what in (("commonvoice", "Common Voice, which must exist"), ("noisex92", "NOISEX-92, likewise")):
        corpora.add_parser(name, help=f"{what}; prints how to get it").add_argument("--dir", required=True)

    args = parser.parse_args()

    from pathlib import Path

    from sase.processes import folder_lock

    if args.corpus == "voicebank_demand":
        from sase.data.corpora.voicebank_demand import download

        with folder_lock(Path(args.dir)):
            download(args.dir, args.trainset, args.remove_zips)
    elif args.corpus == "mini":  # which appears as a whole, in a folder that must be empty, so that no lock fits in it
        name = "mini" if args.language == "english" else "mini_mandarin"
        importlib.import_module(f"sase.data.corpora.{name}").download(args.dir, args.seed)
    else:  # prints how to get it
        importlib.import_module(f"sase.data.corpora.{args.corpus}").download(args.dir)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "download")
