"""Write one page to look at and listen to experiments: scores, sound, curves, configurations."""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="sase report", description=__doc__)
    parser.add_argument("exp", nargs="+", metavar="EXP", help="experiment folders, shown side by side")
    parser.add_argument("-o", "--out", required=True, metavar="PAGE.html", help="the page, one file for any browser")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DIR",
        help="data directory of a set, named like it (as scoring recorded it, or dump/SET above EXP)",
    )
    parser.add_argument("--unprocessed", metavar="DIR", help="scores of the unprocessed input, as for 'sase score'")
    parser.add_argument(
        "--limit-mb",
        type=float,
        default=20.0,
        metavar="N",
        help="size up to which the page contains sound; some utterances, evenly over quality (%(default)g)",
    )
    parser.add_argument(
        "--watch",
        type=float,
        metavar="S",
        help="look at the folders every S seconds, write the page again when they have changed, until Ctrl-C; an open "
        "page reloads itself",
    )
    args = parser.parse_args()
    if not 0 < args.limit_mb <= 2000:
        parser.error("--limit-mb must be above 0 and at most 2000")
    if args.watch is not None and not 0.1 <= args.watch <= 86400:
        parser.error("--watch must be from 0.1 to 86400")

    import sys
    from functools import partial

    from sase.report.page import write_page
    from sase.report.watching import watch

    log = partial(print, file=sys.stderr, flush=True)
    write = partial(write_page, args.exp, args.out, args.data, args.unprocessed, args.limit_mb, log)
    if args.watch is not None:
        try:
            watch(args.exp, partial(write, reload_s=args.watch), args.watch)
        except KeyboardInterrupt:
            log("interrupted; the page as it is now, which does not reload itself any more:")
    data = write()
    for experiment in data["experiments"]:
        for note in experiment["notes"]:
            log(f"{experiment['name']}: {note}")
    log(data["sound_note"])


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "report")
