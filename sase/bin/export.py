"""Convert trained weights for other programs: a streaming graph for ONNX Runtime, or weights for the C core."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase export", description=__doc__)
    parser.add_argument("--model", required=True, help="name of shipped weights, a file such as best.pt, or its folder")
    parser.add_argument("--to", required=True, choices=["onnx", "native"], help="the format")
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="output file; native: C source if it ends in .c"
    )
    args = parser.parse_args()

    from sase import pretrained

    model = pretrained.load(args.model)
    if args.to == "native":
        from sase.export.native import export_native

        export_native(model, args.out)
        print(f"{args.out}: written")
        return
    from sase.export.onnx import export_onnx

    path = pretrained.available().get(args.model)
    about = (pretrained.card(args.model), pretrained.fingerprint(path)) if path else ()
    difference = export_onnx(model, args.out, *about)
    print(f"{args.out}: written, differs from the network by {difference:.1e}")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "export")
