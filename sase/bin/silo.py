"""Run one silo of a deployed federation: connect to the server, train each round, exit when training is finished."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase silo", description=__doc__)
    parser.add_argument("--silo", type=int, help="index of this silo, from 0 (default: its bundle's)")
    parser.add_argument("--data-dir", required=True, help="its data: tr/, a dump directory, and optionally tt/")
    parser.add_argument(
        "--server", metavar="HOST:PORT", help="the server, or a file with its address (default: its bundle's)"
    )
    parser.add_argument("--certificates", help="folder with ca.crt and silo.key, or its parent")
    parser.add_argument(
        "--insecure", action="store_true", help="no encryption and no authentication; for tests on one machine"
    )
    parser.add_argument("--state-dir", help="for its state and logs (default: state<N> next to the data)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--wait-s", type=float, default=600.0, help="timeout for an unreachable server (%(default)s s)")
    parser.add_argument("--cold", action="store_true", help="free the memory between rounds, for 4 s of CPU time each")
    parser.add_argument(
        "--min-noise",
        type=float,
        default=0.0,
        metavar="Z",
        help="refuse rounds with less noise on this silo's update, in units of the norm to which it is clipped",
    )
    parser.add_argument(
        "--max-epsilon",
        type=float,
        default=float("inf"),
        metavar="E",
        help="refuse rounds after which ε of all that this silo has sent would be larger, against the server",
    )
    parser.add_argument(
        "--require-masks", action="store_true", help="take part in secure sums only: send no update that is not masked"
    )
    parser.add_argument("--delta", type=float, default=1e-5, help="δ of --max-epsilon (%(default)s)")
    args = parser.parse_args()

    import logging
    from pathlib import Path

    from sase.errors import InputError
    from sase.federated.flower.silo_process import run_silo
    from sase.federated.limits import PrivacyLimits
    from sase.federated.onboarding import membership_of

    if bool(args.certificates) == args.insecure:
        raise InputError("needs either --certificates DIR (made by tools/make_certificates.sh) or --insecure")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    about = membership_of(args.certificates, args.silo, args.server)
    data_dir = Path(args.data_dir)
    state_dir = args.state_dir or data_dir.resolve().parent / f"state{about.silo}"
    run_silo(
        about.silo,
        data_dir,
        state_dir,
        about.server,
        args.certificates,
        args.device,
        args.threads,
        args.wait_s,
        not args.cold,
        PrivacyLimits(args.min_noise, args.max_epsilon, args.delta),
        args.require_masks,
    )


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "silo")
