"""Check a silo's machine before it joins a federation: data, disk, device, key, server, clock, versions."""

import argparse


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="sase doctor", description=f"{__doc__} Changes nothing. Exits with status 1 if a check failed."
    )
    parser.add_argument("--silo", type=int, help="index of this silo, from 0 (default: its bundle's)")
    parser.add_argument("--data-dir", required=True, help="its data: tr/, a dump directory, and optionally tt/")
    parser.add_argument(
        "--server", metavar="HOST:PORT", help="the server, or a file with its address (default: its bundle's)"
    )
    parser.add_argument("--certificates", help="folder with ca.crt and silo.key, or its parent")
    parser.add_argument("--insecure", action="store_true", help="the server has no encryption and no authentication")
    parser.add_argument("--state-dir", help="for its state and logs (default: state<N> next to the data)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument(
        "--sample-rate", type=int, metavar="HZ", help="of the network (default: what the server or the bundle says)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list of all checks")
    args = parser.parse_args()

    import json
    from dataclasses import asdict
    from pathlib import Path

    from sase.errors import InputError
    from sase.federated.doctor.diagnosis import diagnose
    from sase.federated.doctor.findings import FAILED
    from sase.federated.onboarding import membership_of

    if bool(args.certificates) == args.insecure:
        raise InputError("needs either --certificates DIR (made by tools/make_certificates.sh) or --insecure")
    about = membership_of(args.certificates, args.silo, args.server)
    data_dir = Path(args.data_dir)
    state_dir = Path(args.state_dir or data_dir.resolve().parent / f"state{about.silo}")
    certificates = Path(args.certificates) if args.certificates else None
    findings = []
    for finding in diagnose(about, data_dir, state_dir, certificates, args.device, args.sample_rate):
        findings.append(finding)
        if not args.json:
            print(finding, flush=True)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    return int(any(finding.status == FAILED for finding in findings))


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "doctor")
