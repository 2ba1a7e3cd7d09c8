"""Make the certificates and keys with which the server and the silos of a federation authenticate each other."""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A private certificate authority signs the server's certificate, which the silos verify; each silo "
        "has its own key, whose public part the server registers. Existing files are kept: run it again with more "
        "silos to make keys for the new ones.",
    )
    parser.add_argument("--out", required=True, type=Path, help="output folder")
    parser.add_argument(
        "--hosts", default="", help='names and addresses of the server, such as "fl.example.org 10.0.0.5"'
    )
    parser.add_argument("--silos", type=int, default=4, help="number of silos (%(default)s)")
    parser.add_argument("--days", type=int, default=825, help="validity of the certificates (%(default)s)")
    parser.add_argument("--key-only", action="store_true", help="only make the key pair of one silo in --out")
    args = parser.parse_args()

    from sase.federated.certificates import make_certificates, make_silo_key
    from sase.private import private_files

    with private_files():
        if args.key_only:
            make_silo_key(args.out)
            print(f"{args.out}: keep silo.key on this machine; send silo.pub to the operator of the server")
            return
        make_certificates(args.out, args.hosts.split(), args.silos, args.days)
    print(f"{args.out}: copy server/ to the server and silo0/ ... to one silo each; keep ca.key here")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "certificates")
