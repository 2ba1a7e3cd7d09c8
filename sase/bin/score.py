"""Score enhanced speech against clean speech, per utterance and on average (stage 5)."""

from __future__ import annotations

import argparse

EPILOG = """Files of two folders are paired by their names without suffix. A bad utterance (unreadable, of another
length or rate than the clean one, or with a silent clean file) is reported, counted and skipped. A silent enhanced file
counts with the lowest value of each measure. The exit status is 1 if one could not be scored or an enhanced file is
missing, since the means are then not those of the whole set. DNSMOS is computed by Microsoft's networks in the package
speechmos (MIT licence)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("--enhanced", required=True, metavar="DIR", help="sound files, or a folder with spk1.scp")
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument("--clean", metavar="DIR", help="sound files of the same names")
    against.add_argument("--data", metavar="DIR", help="(dumped) data directory; the unprocessed input is scored too")
    against.add_argument("--no-reference", action="store_true", help="score without clean files, by DNSMOS alone")
    parser.add_argument("--dnsmos", action="store_true", help="score by DNSMOS too")
    parser.add_argument(
        "--trim",
        type=int,
        default=0,
        metavar="N",
        help="cut up to N samples off the longer signal of a pair (%(default)s)",
    )
    parser.add_argument(
        "--unprocessed", metavar="DIR", help="folder for the scores of the unprocessed input (in the data directory)"
    )
    parser.add_argument("--out", help="CSV file; with --data: folder (ENHANCED/scoring)")
    parser.add_argument("--json", action="store_true", help="print means and counts as JSON")
    parser.add_argument("--nj", type=int, default=1, help="processes, or with --job and --finish shards (%(default)s)")
    parser.add_argument("--job", type=int, help="score only this shard, from 1; --finish joins them")
    parser.add_argument("--finish", action="store_true", help="join the shards; write RESULTS.md and figures")
    parser.add_argument("--results", metavar="DIR", help="folder for RESULTS.md (the experiment's folder, else --out)")
    parser.add_argument("--utt", help="utterance whose spectrograms are drawn (the one of median improvement)")
    args = parser.parse_args()
    if args.nj < 1 or (args.job is not None and not 1 <= args.job <= args.nj):
        parser.error("--nj must be 1 or more, and --job between 1 and --nj")
    if not args.data and (args.job is not None or args.finish or args.results or args.utt or args.unprocessed):
        parser.error("--job, --finish, --results, --utt and --unprocessed need --data")
    if args.trim < 0 or (args.trim and args.no_reference):
        parser.error("--trim must be 0 or more, and needs a reference")
    if args.job is not None and args.finish:
        parser.error("--job scores one shard, --finish joins them: use one of the two")

    import json
    import sys
    from functools import partial

    from sase.evaluation import results, scoring, shards
    from sase.locking import output_lock

    log = partial(print, file=sys.stderr, flush=True)
    method = scoring.Method(args.trim, without_reference=args.dnsmos or args.no_reference)
    if not args.data:
        summary = scoring.score_folders(args.clean, args.enhanced, args.out, args.nj, log, method).summary()
    else:
        out = args.out or f"{args.enhanced}/scoring"
        how = {"method": method, "unprocessed": args.unprocessed}
        with output_lock(out, args.job, within=2):
            if not args.finish:
                jobs = {"job": args.job, "nj": args.nj} if args.job else {"workers": args.nj}
                shards.score_shard(args.data, args.enhanced, out, log=log, **jobs, **how)
                if args.job:
                    return 0
            split = {"nj": args.nj} if args.finish else {"workers": args.nj}
            summary = results.finish(args.data, args.enhanced, out, args.results, utt=args.utt, log=log, **split, **how)
    short = {key: summary[key] for key in ("mean", "scored", "failed")}
    print(json.dumps(short) if args.json else results.text(summary))
    if summary["failed"]:
        counts = f"{summary['failed']} utterances are not scored, of which {summary['missing']} have no enhanced file"
        log(f"sase score: {counts}: the means are not those of the whole set")
    return 1 if summary["failed"] else 0


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "score")
