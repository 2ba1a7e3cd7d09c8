"""Enhance samples while they arrive: from standard input to standard output, or from the microphone."""

import argparse

EPILOG = """Input is a WAV file with 16-bit integers or 32-bit floats, or raw samples as --format, --rate and --channels
describe; output has the same format and length. Each hop of 16 ms is written as soon as it is complete. Example:
arecord -t raw -f S16_LE -r 16000 | sase stream | aplay -t raw -f S16_LE -r 16000"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    which = "weights by name (%(default)s; see 'sase info --shipped'), or a file such as exp/TAG/best.pt, or its folder"
    parser.add_argument("--model", default="small", help=which)
    engines = "how to run the network: native (C), onnx, torch; auto takes the first that is available (%(default)s)"
    parser.add_argument("--engine", default="auto", choices=["auto", "native", "onnx", "torch"], help=engines)
    samples = "of raw samples; default: s16le, unless the input starts as a WAV file"
    parser.add_argument("--format", choices=["s16le", "f32le"], help=samples)
    parser.add_argument("--rate", type=int, help="of raw samples or of --mic, in Hz (default: that of the network)")
    parser.add_argument("--channels", type=int, default=1, help="of raw samples or of --mic (%(default)s)")
    parser.add_argument("--limit", type=float, metavar="DB", help="attenuate noise by at most so many decibels")
    parser.add_argument("--mic", action="store_true", help="play the default microphone, enhanced, until Ctrl-C")
    args = parser.parse_args()

    import os
    import signal

    from sase.audio import check_limits
    from sase.audio.pcm import PcmFormat
    from sase.enhancer import Enhancer
    from sase.live import enhance_microphone, enhance_pipe

    if not args.mic and os.isatty(0):
        parser.error("standard input is a terminal; pipe samples into it, or use --mic")
    enhancer = Enhancer.from_pretrained(args.model, engine=args.engine, limit_db=args.limit)
    rate = enhancer.sample_rate if args.rate is None else args.rate
    check_limits("--rate and --channels", rate, args.channels)
    if args.mic:
        enhance_microphone(enhancer, rate, args.channels)
        return
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # exit silently when the reader closes the pipe
    raw = PcmFormat(args.format or "s16le", rate, args.channels)
    enhance_pipe(enhancer, 0, 1, raw, may_be_wav=args.format is None)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "stream")
