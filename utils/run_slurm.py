#!/usr/bin/env python3
"""Run tasks on Slurm as a job array, with the interface and log format of Kaldi's slurm.pl.

The site (partition, account, GPUs, container) is described in conf/slurm.conf. All tasks are run, even when one fails;
the exit status is 0 if all succeeded, 1 if one failed, was killed, timed out or vanished. Ctrl-C and SIGTERM cancel the
array.
"""

from __future__ import annotations

from pathlib import Path

import cluster


class Slurm:
    site = "conf/slurm.conf"
    number = '"$SLURM_ARRAY_TASK_ID"'

    @staticmethod
    def submit(name: str, folder: Path, todo: list[int], max_jobs_run: int | None) -> list[str]:
        tasks = ",".join(map(str, todo)) + (f"%{max_jobs_run}" if max_jobs_run else "")
        return [
            "--wait",
            "--parsable",
            f"--job-name={name}",
            f"--array={tasks}",
            f"--output={folder}/%a.out",
            f"{folder}/job.sh",
        ]

    @staticmethod
    def cancel(name: str) -> None:
        cluster.ask("scancel", "--quiet", f"--user={cluster.user()}", f"--name={name}")

    @staticmethod
    def states(name: str) -> dict[int | None, str]:
        """Return {number: state} of the tasks that squeue still lists, until some minutes after they ended.

        Tasks that were cancelled before they started share one entry, None.
        """
        selection = (f"--user={cluster.user()}", f"--name={name}")
        lines = cluster.ask(
            "squeue", "--noheader", "--array", "--states=all", *selection, "--format=%K %T"
        ).splitlines()
        pairs = map(str.split, lines)
        return {int(number) if number.isdigit() else None: state for number, state in pairs}


if __name__ == "__main__":
    cluster.main("run_slurm.py", __doc__, Slurm)
