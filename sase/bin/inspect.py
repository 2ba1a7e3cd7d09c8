"""Plot what a network does with a recording: gates, attention, memory and mask below its spectrogram."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase inspect", description=__doc__)
    parser.add_argument("input", help="mono sound file, at any sample rate")
    parser.add_argument("-o", "--out", required=True, metavar="FIGURE.png", help="the figure")
    parser.add_argument("--model", metavar="M", help="as for 'sase enhance' (default: the same)")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="start, in seconds (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="duration (%(default)s)")
    args = parser.parse_args()

    from pathlib import Path

    import torch

    from sase import audio, pretrained
    from sase.errors import InputError
    from sase.inspection import inspect_model
    from sase.inspection_figure import draw_inspection

    if not (args.start >= 0.0 and 0.0 < args.seconds <= 60.0):
        raise InputError("--start must be 0 or more, and --seconds above 0 and at most 60")
    if Path(args.out).suffix.lower() != ".png":
        raise InputError(f"{args.out}: the figure is a PNG; use the suffix .png")
    name = args.model or pretrained.DEFAULT
    model = pretrained.load(name)
    rate = model.config.sample_rate
    wav, _ = audio.read_mono(args.input, rate)
    part = wav[round(args.start * rate) :][: max(1, round(args.seconds * rate))]
    if not len(part):
        raise InputError(f"{args.input}: {len(wav) / rate:.2f} s long, --start {args.start:g} is beyond its end")
    inspection = inspect_model(model, torch.from_numpy(part))
    draw_inspection(args.out, inspection, f"{Path(args.input).name}, {name}")
    for layer, memory_s in inspection.memory_s.items():
        heads = ", ".join(f"{value:.2f} s" if value < float("inf") else "unlimited" for value in memory_s.tolist())
        print(f"{layer}: memory {heads}")
    print(f"{args.out}: written")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "inspect")
