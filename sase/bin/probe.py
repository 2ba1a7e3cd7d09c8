"""Measure what networks do to speech and to kinds of noise: suppression, errors by band, levels, onsets, drift."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase probe", description=__doc__)
    parser.add_argument(
        "--model", nargs="+", metavar="M", help="names of shipped weights, files or experiment folders (the shipped)"
    )
    parser.add_argument("--speech", metavar="DIR", help="clean speech (default: synthetic talkers)")
    parser.add_argument(
        "--noise", action="append", default=[], metavar="DIR", help="recorded noises, besides the synthetic ones"
    )
    parser.add_argument(
        "--kinds", default="*", help="those of --noise to play, patterns separated by spaces: 'crowd *siren*' (all)"
    )
    parser.add_argument("-o", "--out", metavar="DIR", help="folder for probe.md, probe.png and probe.json")
    args = parser.parse_args()

    from pathlib import Path

    from sase import jsonfile, pretrained
    from sase.atomic import write_text
    from sase.errors import InputError
    from sase.evaluation.probe.material import material
    from sase.evaluation.probe.page import draw, lines
    from sase.evaluation.probe.probing import identity, probe, system_of
    from sase.processes import folder_lock

    models = {name: pretrained.load(name) for name in args.model or pretrained.available()}
    rates = {model.config.sample_rate for model in models.values()}
    if len(rates) != 1:
        raise InputError(f"--model: networks of one sample rate are compared, these have {sorted(rates)} Hz")
    stimuli = material(rates.pop(), args.speech, args.noise, args.kinds.split())
    systems = {"unprocessed": identity, **{name: system_of(model) for name, model in models.items()}}
    reports = {name: probe(system, stimuli) for name, system in systems.items()}
    page = "\n".join(lines(reports, stimuli.described))
    print(page)
    if args.out:
        folder = Path(args.out)
        with folder_lock(folder):
            write_text(folder / "probe.md", page)
            jsonfile.write(folder / "probe.json", jsonfile.nan_to_null(reports), indent=1)
            draw(folder / "probe.png", reports)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "probe")
