"""Convert trained weights for other programs: ONNX Runtime, the C core, hosts of LADSPA plugins, web browsers."""

import argparse

EPILOG = """onnx: a streaming graph. native: weights for the C core, or C source if FILE ends in .c. ladspa: a plugin,
compiled here with the weights in it. web: one page that enhances files and the microphone in a browser."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase export", description=__doc__, epilog=EPILOG)
    parser.add_argument("--model", required=True, help="name of shipped weights, a file such as best.pt, or its folder")
    parser.add_argument("--to", required=True, choices=["onnx", "native", "ladspa", "web"], help="the format")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="output file")
    args = parser.parse_args()

    if args.to == "onnx":
        from sase import pretrained
        from sase.export.onnx import export_onnx

        path = pretrained.available().get(args.model)
        about = (pretrained.card(args.model), pretrained.fingerprint(path)) if path else ()
        difference = export_onnx(pretrained.load(args.model), args.out, *about)
        print(f"{args.out}: written, differs from the network by {difference:.1e}")
        return
    from sase.export.core_weights import core_weights

    weights = core_weights(args.model)
    if args.to == "native":
        from sase.native.weights import write_weights

        write_weights(weights, args.out)
    elif args.to == "ladspa":
        from sase.export.ladspa import export_ladspa

        export_ladspa(weights, args.out)
    else:
        from sase.export.web import export_web

        export_web(weights, args.out, args.model)
    print(f"{args.out}: written")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "export")
