"""Estimate hours and disk for corpora of any size from speeds measured on this machine."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase bench scale", description=__doc__)
    parser.add_argument("--config", default="egs/voicebank_demand/conf/train_small.yaml", help="(%(default)s)")
    parser.add_argument("--gpu", action="store_true", help="devices are GPUs; this machine must have one")
    parser.add_argument("--hours", type=float, nargs="+", default=[10, 1000, 10000], help="of audio (10 1000 10000)")
    parser.add_argument("--test-hours", type=float, default=1, help="sound to enhance and to score (%(default)s)")
    parser.add_argument("--epochs", type=int, default=50, help="epochs of training (%(default)s)")
    parser.add_argument("--cpus", type=int, default=32, help="cores of all machines together (%(default)s)")
    parser.add_argument("--devices", type=int, default=4, help="cores, or GPUs, that train one network (%(default)s)")
    parser.add_argument(
        "--network-gbit", type=float, help="Gbit/s between machines (measured between two local processes)"
    )
    args = parser.parse_args()

    from sase.bench import scale, stages
    from sase.training.config import load_train_config

    machine, bytes_per_s = stages.machine(), args.network_gbit and args.network_gbit * 1e9 / 8
    speeds = scale.measure(load_train_config(args.config), args.gpu, exchange_speed=bytes_per_s)
    print(scale.page(speeds, machine, args.hours, args.test_hours, args.epochs, args.cpus, args.devices))


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "bench scale")
