"""Enhance sound files, folders of them, or patterns such as 'noisy/**/*.flac'."""

import argparse

EPILOG = """The kind of file, rate, channels, sample format, tags and length are preserved, and so is the structure of
folders. Files that cannot be enhanced are reported, and the exit status is then 1. Inputs are never overwritten."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    what = "sound files, folders, patterns; with ffmpeg also M4A, MP4, WebM, video, ...; - is standard input"
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=what)
    out = "folder, or the output file when there is one input file; - is standard output (WAV)"
    parser.add_argument("-o", "--out", required=True, help=out)
    which = "weights by name (%(default)s; see 'sase info --shipped'), or a file such as exp/TAG/best.pt, or its folder"
    parser.add_argument("--model", default="small", help=which)
    engines = "how to run the network: native (C), onnx, torch; auto takes the first that is available (%(default)s)"
    parser.add_argument("--engine", default="auto", choices=["auto", "native", "onnx", "torch"], help=engines)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="more than one helps large networks (%(default)s)")
    parser.add_argument("--jobs", type=int, help="files to enhance at a time (all cores)")
    parser.add_argument("--limit", type=float, metavar="DB", help="attenuate noise by at most so many dB (no limit)")
    highs = "what is above the network's band, 8 kHz: keep it, turned down with the noise, or drop it (%(default)s)"
    parser.add_argument("--highs", choices=["keep", "drop"], default="keep", help=highs)
    kinds = ["wav", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "aifc", "au", "snd", "caf", "rf64", "w64"]
    parser.add_argument(
        "--format",
        choices=kinds,
        metavar="F",
        help="kind of the output files: wav, flac, ... (as the input, WAV if impossible)",
    )
    parser.add_argument("--subtype", help="sample format: PCM_16, PCM_24, FLOAT, ... (as the input)")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--overwrite", action="store_true", help="replace outputs that exist (they are an error)")
    there.add_argument("--skip-existing", action="store_true", help="leave outputs that exist, and their inputs, alone")
    parser.add_argument("--salvage", action="store_true", help="enhance what is there of truncated files")
    parser.add_argument("--json", action="store_true", help="print what became of each file as JSON")
    args = parser.parse_args()

    if args.threads < 1 or (args.jobs is not None and args.jobs < 1):
        parser.error("--threads and --jobs must be 1 or more")
    if args.device != "cpu" and (args.jobs or 1) > 1:
        parser.error("--jobs needs the CPU")

    from functools import partial

    from sase.enhancer import Enhancer
    from sase.enhancing import Options, enhance

    options = Options(
        args.format,
        args.subtype,
        args.salvage,
        "overwrite" if args.overwrite else "skip" if args.skip_existing else "error",
        args.jobs or (1 if args.device != "cpu" or args.threads > 1 else None),
        args.json,
    )
    load = partial(Enhancer.from_pretrained, args.model, args.device, args.engine, args.threads)
    enhance(args.inputs, args.out, partial(load, limit_db=args.limit, highs=args.highs), options)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "enhance")
