"""Measure the speed of enhancement, training, dumping and scoring, the C core, and the cost of federated training."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=f"{__doc__} 'sase bench scale' estimates costs from these.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a Markdown table")
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    enhance = subjects.add_parser("enhance", help="real-time factor from waveform to waveform, one thread")
    enhance.add_argument("--preset", nargs="+", default=["tiny", "small", "paper"], help="(tiny small paper)")
    enhance.add_argument("--model", help="a saved model, instead of presets")
    enhance.add_argument("--seconds", nargs="+", type=float, default=[4, 60], help="lengths of the input (4 60)")
    enhance.add_argument("--repeats", type=int, default=5, help="(%(default)s)")
    native = subjects.add_parser("native", help="time of a hop in the C core, in relation to torch, one thread")
    native.add_argument("--model", nargs="+", default=["tiny", "small"], help="shipped weights or files (tiny small)")
    native.add_argument("--onnx", nargs="+", default=[], metavar="FILE", help="also in relation to ONNX Runtime")
    stream = subjects.add_parser("stream", help="time to answer hops in real time, also on a busy machine")
    stream.add_argument("--model", nargs="+", default=["tiny", "small"], help="shipped weights or files (tiny small)")
    stream.add_argument("--engine", default="auto", choices=["auto", "native", "onnx", "torch"], help="(%(default)s)")
    stream.add_argument("--seconds", type=float, default=10.0, help="seconds of signal per measurement (%(default)s)")
    stream.add_argument("--rate", type=int, help="of the signal in Hz (that of the network)")
    levels = subjects.add_parser("levels", help="SI-SDR of recordings that are scaled")
    levels.add_argument("--clean", required=True, help="folder")
    levels.add_argument("--noisy", required=True, help="folder with files of the same names")
    levels.add_argument("--gains", nargs="+", type=float, default=[-60, -40, -20, 0, 10], help="dB (-60 ... 10)")
    highs = subjects.add_parser("highs", help="SNR of the whole band, without and with what is above the network's")
    highs.add_argument("--clean", required=True, help="folder with speech at 44.1 or 48 kHz")
    for subject in (levels, highs):
        subject.add_argument("--model", nargs="+", default=["tiny", "small"], help="(tiny small)")
        subject.add_argument("--limit", type=int, default=20, help="number of files (%(default)s)")
    files = subjects.add_parser("files", help="time and memory of 'sase enhance' for stereo files at 48 kHz")
    files.add_argument("--minutes", type=float, default=90, help="duration of each (%(default)s)")
    files.add_argument("--count", type=int, default=1, help="number of files (%(default)s)")
    files.add_argument("--model", default="small", help="(%(default)s)")
    train = subjects.add_parser("train", help="× real time of training, all cores or one GPU")
    standard = "egs/voicebank_demand/conf/train_small.yaml"
    train.add_argument("--config", nargs="+", default=[standard], help=f"of one sample rate ({standard})")
    train.add_argument("--preset", nargs="+", help="networks instead of that of the first config")
    train.add_argument("--ngpu", type=int, default=0, choices=(0, 1), help="train on a GPU")
    train.add_argument("--switches", action="store_true", help="with each option for speed in turn")
    train.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a key of the configs")
    train.add_argument("--steps", type=int, default=10, help="(%(default)s)")
    dump = subjects.add_parser("dump", help="× real time of stage 2, one core")
    dump.add_argument("--pairs", type=int, default=60, help="noisy and clean files of 5 s (%(default)s)")
    score = subjects.add_parser("score", help="time of stage 5, all measures")
    score.add_argument("--utterances", type=int, default=60, help="of 2.5 s (%(default)s)")
    score.add_argument("--nj", type=int, default=1, help="processes (%(default)s)")
    federated = subjects.add_parser("federated", help="what the rounds of a federated training cost beside training")
    which = federated.add_mutually_exclusive_group(required=True)
    which.add_argument("--exp", help="folder of a training, whose time is divided")
    which.add_argument("--silos", nargs="+", type=int, help="numbers of silos of federations to run on synthetic data")
    engines = (
        "inproc, simulation, deployment; with synthetic replies, server (it alone) or deployed-server (%(default)s)"
    )
    federated.add_argument("--engine", default="inproc", help=engines)
    federated.add_argument("--preset", default="paper", help="(%(default)s)")
    federated.add_argument("--clients-per-round", type=int, default=0, help="silos that take part (0: all)")
    federated.add_argument("--payload", default="float32", help="float32, bfloat16 or int8 (%(default)s)")
    federated.add_argument("--rounds", type=int, default=4, help="of which the first is not counted (%(default)s)")
    cold_help = "deployment: also measure silos that start a process for every round"
    federated.add_argument("--cold", action="store_true", help=cold_help)
    secure = subjects.add_parser("secure", help="cost of secure aggregation beside training")
    secure.add_argument("--preset", nargs="+", default=["tiny", "paper"], help="(tiny paper)")
    secure.add_argument("--silos", nargs="+", type=int, default=[4, 16], help="(4 16)")
    secure.add_argument("--dropped", type=int, default=1, help="silos that drop out (%(default)s)")
    subjects.add_parser("payload", help="bytes per upload of a silo, for every preset")
    for subject in subjects.choices.values():
        subject.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    args = parser.parse_args()

    import json

    from sase.bench import enhancing, stages
    from sase.bench.federated import outside_training, upload_bytes
    from sase.bench.federations import bench_federations
    from sase.bench.native import bench_native
    from sase.bench.secure import bench_secure
    from sase.bench.stream import bench_stream
    from sase.bench.training import bench_train
    from sase.markdown import table_of_mappings
    from sase.model import build_model
    from sase.pretrained import load
    from sase.training.config import load_train_config

    machine = stages.machine()
    rows = {
        "enhance": lambda: stages.bench_enhance(
            {args.model: load(args.model)} if args.model else {name: build_model(name) for name in args.preset},
            args.seconds,
            args.repeats,
        ),
        "native": lambda: bench_native({name: load(name) for name in args.model}, args.onnx),
        "stream": lambda: bench_stream(args.model, args.engine, args.seconds, args.rate),
        "levels": lambda: enhancing.bench_levels(args.model, args.clean, args.noisy, args.gains, args.limit),
        "highs": lambda: enhancing.bench_highs(args.model, args.clean, args.limit),
        "files": lambda: enhancing.bench_files(args.minutes, args.count, args.model),
        "train": lambda: bench_train(
            [load_train_config(args.config[0], [f"model={{preset: {name}}}", *args.set]) for name in args.preset or ()]
            or [load_train_config(path, args.set) for path in args.config],
            args.switches,
            args.steps,
            "cuda" if args.ngpu else "cpu",
        ),
        "dump": lambda: stages.bench_dump(args.pairs),
        "score": lambda: stages.bench_score(args.utterances, args.nj),
        "secure": lambda: bench_secure(args.preset, args.silos, args.dropped),
        "federated": lambda: (
            [outside_training(args.exp)]
            if args.exp
            else bench_federations(
                args.engine,
                args.silos,
                args.preset,
                args.clients_per_round,
                args.payload,
                args.rounds,
                args.cold,
            )
        ),
        "payload": upload_bytes,
    }[args.subject]()
    if args.json:
        print(json.dumps({"machine": machine, "rows": rows}))
    else:
        print(machine, "", *table_of_mappings(rows), sep="\n")


if __name__ == "__main__":
    from sase.bin.main import run

    run(main, "bench")
