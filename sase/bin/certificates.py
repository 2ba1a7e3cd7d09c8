"""Make the certificates and keys with which the server and the silos of a federation authenticate each other."""

import argparse
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(
        description="A certificate authority of the federation's own signs the server's certificate, which silos check; "
        "each silo has a key of its own, whose public half the server registers. Existing files are kept: run it again "
        "with more silos, and it makes keys for the new ones.",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for all of it")
    parser.add_argument("--hosts", default="", help='names and addresses of the server, "fl.example.org 10.0.0.5"')
    parser.add_argument("--silos", type=int, default=4, help="how many silos there are (%(default)s)")
    parser.add_argument("--days", type=int, default=825, help="how long certificates are valid (%(default)s)")
    parser.add_argument("--key-only", action="store_true", help="make one silo's own key pair in --out, nothing else")
    args = parser.parse_args()

    from sase.federated.certificates import make_certificates, make_silo_key

    if args.key_only:
        make_silo_key(args.out)
        print(f"{args.out}: silo.key stays here; give silo.pub to whoever runs the server")
        return
    make_certificates(args.out, args.hosts.split(), args.silos, args.days)
    print(f"{args.out}: server/ is for the server, silo0/ ... for one silo each; ca.key stays here")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "certificates")
