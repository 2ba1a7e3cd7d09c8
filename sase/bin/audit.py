"""Verify the audit trail of a federation: that no round's record or model was changed, removed or reordered."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase audit", description=__doc__)
    parser.add_argument("exp", metavar="EXP", help="experiment folder")
    parser.add_argument(
        "--certificates",
        metavar="DIR",
        help="folder with the federation's ca.crt, which must have signed the server's certificate (default: any)",
    )
    args = parser.parse_args()

    from pathlib import Path

    from sase.federated.audit_verification import verify

    print(f"{args.exp}: {verify(args.exp, Path(args.certificates, 'ca.crt') if args.certificates else None)}")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "audit")
