"""Write the audio of a data directory as 16 kHz arks (stage 2)."""


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(prog="sase dump", description=__doc__)
    parser.add_argument("--data", required=True, help="data directory with wav.scp (noisy) and spk1.scp (clean)")
    parser.add_argument("--out", required=True, help="folder for the arks and their tables")
    parser.add_argument("--sample-rate", type=int, default=16000, help="of the arks, in Hz (%(default)s)")
    parser.add_argument("--nj", type=int, default=1, help="number of shards (%(default)s)")
    parser.add_argument("--job", type=int, help="process only this shard, from 1; --finish joins them")
    parser.add_argument("--finish", action="store_true", help="join the shards of the jobs")
    test = parser.add_mutually_exclusive_group()
    test.add_argument("--keep-all", action="store_true", help="for test sets: a bad utterance is an error")
    test.add_argument(
        "--skip-bad-test", action="store_true", help="for test sets: leave bad utterances out, and mark the results"
    )
    args = parser.parse_args()
    if args.finish and args.job is not None:
        parser.error("--job processes one shard, --finish joins them: use one of the two")

    from sase.data import dump
    from sase.locking import output_lock

    settings = {"sample_rate": args.sample_rate, "nj": args.nj, "keep_all": args.keep_all}
    with output_lock(args.out, args.job, within=0):
        for job in () if args.finish else [args.job] if args.job is not None else range(1, args.nj + 1):
            dump.dump_set(args.data, args.out, job=job, **settings)
        if args.job is None:
            dump.join_shards(args.data, args.out, mark=args.skip_bad_test, **settings)


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "dump")
