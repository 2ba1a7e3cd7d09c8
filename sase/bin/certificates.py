"""Make the certificates and keys with which the server and the silos of a federation authenticate each other."""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A private certificate authority signs the server's certificate, which the silos verify; each silo "
        "has its own key, whose public part the server registers. Existing files are kept: run it again with more "
        "silos to make keys for the new ones. With --bundle, --join and --register, no private key travels.",
    )
    parser.add_argument("--out", required=True, type=Path, help="output folder")
    parser.add_argument(
        "--hosts", default="", help='names and addresses of the server, such as "fl.example.org 10.0.0.5"'
    )
    parser.add_argument("--silos", type=int, default=4, help="number of silos (%(default)s)")
    parser.add_argument("--days", type=int, default=825, help="validity of the certificates (%(default)s)")
    parser.add_argument("--port", type=int, default=18000, help="of the server, for --bundle (%(default)s)")
    parser.add_argument(
        "--sample-rate", type=int, metavar="HZ", help="of the network, for --bundle: silos check their data against it"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--bundle", action="store_true", help="instead of keys, write one file per silo with which it can --join"
    )
    what.add_argument(
        "--join", type=Path, metavar="FILE", help="at a silo: unpack its bundle into --out and make its key pair there"
    )
    what.add_argument(
        "--register", type=Path, nargs="+", metavar="FILE", help="at the server: public keys that silos have sent"
    )
    what.add_argument("--key-only", action="store_true", help="only make the key pair of one silo in --out")
    args = parser.parse_args()

    from sase.federated.certificates import (
        fingerprint_of_certificate,
        fingerprint_of_key,
        make_certificates,
        make_silo_key,
        read_certificate,
        read_private_key,
    )
    from sase.federated.onboarding import join, register_silo, write_bundles
    from sase.private import private_files
    from sase.processes import folder_lock

    with private_files(), folder_lock(args.out):
        if args.key_only:
            make_silo_key(args.out)
            print(f"{args.out}: keep silo.key on this machine; send silo.pub to the operator of the server")
        elif args.join is not None:
            membership = join(args.join, args.out)
            authority = fingerprint_of_certificate(read_certificate(args.out / "ca.crt"))
            print(f"{args.out}: silo {membership.silo} of the federation at {membership.server}")
            print(f"authority {authority}\n  must be what the operator of the server reads out")
            print(f"key {fingerprint_of_key(read_private_key(args.out / 'silo.key').public_key())}")
            print(f"send {args.out / 'silo.pub'} to the operator; silo.key stays on this machine")
        elif args.register is not None:
            for path in args.register:
                silo, fingerprint = register_silo(args.out, path)
                print(f"silo {silo}: key {fingerprint}, valid from the next start of the server on")
        elif args.bundle:
            bundles = write_bundles(args.out, args.hosts.split(), args.silos, args.port, args.days, args.sample_rate)
            print(f"authority {fingerprint_of_certificate(read_certificate(args.out / 'ca.crt'))}")
            print(f"send {bundles[0]} ... to one silo each, and register the silo.pub that each returns")
        else:
            make_certificates(args.out, args.hosts.split(), args.silos, args.days)
            print(f"{args.out}: copy server/ to the server and silo0/ ... to one silo each; keep ca.key here")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "certificates")
