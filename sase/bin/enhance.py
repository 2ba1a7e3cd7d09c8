"""Enhance sound files, folders of them, or patterns such as 'noisy/**/*.flac'."""

import argparse

EPILOG = """Sample rate, channels, length and file type are preserved, and so is the structure of folders. Files that
cannot be enhanced are reported, and the exit status is then 1. Inputs are never overwritten."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="WAV, FLAC, OGG or MP3 files, folders, patterns")
    parser.add_argument("-o", "--out", required=True, help="folder, or the output file when there is one input file")
    which = "weights by name (%(default)s; see 'sase info --shipped'), or a file such as exp/TAG/best.pt, or its folder"
    parser.add_argument("--model", default="small", help=which)
    engines = "how to run the network: native (C), onnx, torch; auto takes the first that is available (%(default)s)"
    parser.add_argument("--engine", default="auto", choices=["auto", "native", "onnx", "torch"], help=engines)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="more than one helps large networks (%(default)s)")
    args = parser.parse_args()

    if args.threads < 1:
        parser.error("--threads must be 1 or more")

    import sys
    import time
    from contextlib import nullcontext

    from tqdm import tqdm

    from sase.atomic import remove_ended_leftovers
    from sase.batch import Failures
    from sase.enhancer import Enhancer
    from sase.errors import InputError
    from sase.outputs import plan_outputs

    pairs = plan_outputs(args.inputs, args.out)
    enhancer = Enhancer.from_pretrained(args.model, args.device, args.engine, args.threads)
    remove_ended_leftovers(*{target.parent for _, target in pairs})
    failures = Failures(lambda line: tqdm.write(f"sase enhance: {line}", file=sys.stderr))
    seconds, started = 0.0, time.monotonic()
    with tqdm(unit="s", unit_scale=True, disable=None, leave=False) as bar:  # None: only on a terminal
        for number, (source, target) in enumerate(pairs, 1):
            bar.set_description(f"{number}/{len(pairs)} {source.name}")
            with failures.of(str(source)) if len(pairs) > 1 else nullcontext():
                seconds += enhancer.enhance_file(source, target, bar.update)
    wall = time.monotonic() - started
    print(f"{args.out}: {len(pairs) - len(failures)} files, {seconds:.1f} s of audio in {wall:.1f} s")
    if failures:
        raise InputError(f"{len(failures)} of {len(pairs)} failed")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "enhance")
