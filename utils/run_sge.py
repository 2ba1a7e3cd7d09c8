#!/usr/bin/env python3
"""Run tasks on Sun Grid Engine as an array job, with the interface and log format of Kaldi's queue.pl.

The site (queue, project, resources) is described in conf/sge.conf; otherwise like run_slurm.py. Tested only against a
stand-in for qsub that checks its arguments, not on a real Grid Engine.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import cluster


class GridEngine:
    site = "conf/sge.conf"
    number = '"${numbers[SGE_TASK_ID - 1]}"'  # SGE numbers tasks from 1 without gaps

    @staticmethod
    def submit(name: str, folder: Path, todo: list[int], max_jobs_run: int | None) -> list[str]:
        limit = ["-tc", str(max_jobs_run)] if max_jobs_run else []
        tasks = ["-t", f"1-{len(todo)}", *limit]
        return ["-sync", "y", "-cwd", "-j", "y", "-o", f"{folder}/$TASK_ID.out", "-N", name, *tasks, f"{folder}/job.sh"]

    @staticmethod
    def cancel(name: str) -> None:
        if GridEngine.states(name):
            cluster.ask("qdel", name)

    @staticmethod
    def states(name: str) -> dict[int | None, str]:
        """Return {None: "queued or running"} while the array exists; the state of single tasks is not queried."""
        exists = subprocess.run(["qstat", "-j", name], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
        return {None: "queued or running"} if exists else {}


if __name__ == "__main__":
    cluster.main("run_sge.py", __doc__, GridEngine)
