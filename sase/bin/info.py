"""Print the cost of a network: parameters, multiply-accumulates per second of audio, latency."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", help="one of the presets (default: all of them)")
    which.add_argument("--model", help="name of shipped weights, a file such as exp/<tag>/best.pt, or its folder")
    which.add_argument("--shipped", action="store_true", help="the shipped weights")
    which.add_argument("--card", metavar="NAME", help="print the model card of shipped weights, and nothing else")
    parser.add_argument("--json", action="store_true", help="print JSON, with the whole config")
    args = parser.parse_args()

    import json

    from sase import pretrained
    from sase.markdown import table_of_mappings
    from sase.profiling import describe, describe_presets, with_unit

    if args.card is not None:
        print(pretrained.card(args.card).rstrip())
        return
    if args.shipped:
        networks = {name: describe(name) for name in pretrained.available()}
    elif args.model is not None:
        networks = {args.model: describe(args.model)}
    else:
        networks = describe_presets(args.preset)
    if args.json:
        print(json.dumps(networks))
        return
    rows = [
        {
            "name": name,
            "network": cost["network"],
            "sample rate": f"{cost['sample_rate']} Hz",
            "parameters": with_unit(cost["parameters"]),
            "MACs per second": with_unit(cost["macs_per_s"]),
            "latency": "the whole signal" if cost["latency_s"] is None else f"{1000 * cost['latency_s']:.0f} ms",
        }
        for name, cost in networks.items()
    ]
    print("\n".join(table_of_mappings(rows)))


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "info")
