"""Differential privacy of a federation before it trains: ε after some rounds, or the noise that a wanted ε takes."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase epsilon", description=__doc__)
    parser.add_argument("--fl-config", required=True, help="YAML file of the federation, such as conf/fl.yaml")
    parser.add_argument("--fl-set", action="append", default=[], metavar="A=B", help="override a key of --fl-config")
    parser.add_argument("--rounds", type=int, nargs="+", metavar="N", help="numbers of rounds (default: num_rounds)")
    parser.add_argument("--target", type=float, metavar="E", help="print the noise with which the models have this ε")
    parser.add_argument(
        "--removal", action="store_true", help="--target is for adding or removing a silo, not for replacing its data"
    )
    args = parser.parse_args()

    from dataclasses import replace

    from sase.federated.config import load_federated_config
    from sase.federated.privacy_plan import accounts, noise_for, table

    config = load_federated_config(args.fl_config, args.fl_set)
    if args.target is not None:
        config = replace(config, dp_noise_multiplier=noise_for(config, args.target, args.removal))
        print(f"dp_noise_multiplier: {config.dp_noise_multiplier:g}\n")
    rounds = args.rounds or [config.num_rounds]
    if min(rounds) < 1:
        parser.error("--rounds must be 1 or more")
    print("\n".join(table(config, accounts(config, rounds))))
    if config.sampling == "poisson":
        print("\nAgainst the server, which draws the silos, ε depends on how often a silo is drawn.")
    print(f"\nδ = {config.dp_delta:g}; docs/privacy.md says what this means and what it does not cover")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "epsilon")
