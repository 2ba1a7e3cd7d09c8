#!/usr/bin/env python3
"""Run tasks through Sun Grid Engine, as one array, with the interface and the log format of Kaldi's queue.pl.

What differs between sites (queue, project, resources) is in conf/sge.conf. Otherwise as run_slurm.py. Tested against a
qsub that stands in for the real one and checks what it is called with; no Grid Engine was at hand.
"""

import subprocess

import cluster


class GridEngine:
    site = "conf/sge.conf"
    number = '"${numbers[SGE_TASK_ID - 1]}"'  # its tasks count from 1, and without gaps

    @staticmethod
    def submit(name, folder, todo, max_jobs_run):
        limit = ["-tc", str(max_jobs_run)] if max_jobs_run else []
        tasks = ["-t", f"1-{len(todo)}", *limit]
        return ["-sync", "y", "-cwd", "-j", "y", "-o", f"{folder}/$TASK_ID.out", "-N", name, *tasks, f"{folder}/job.sh"]

    @staticmethod
    def cancel(name):
        if GridEngine.states(name):
            cluster.ask("qdel", name)

    @staticmethod
    def states(name):
        """Return {None: what} while the array is there, else nothing: what became of each task is not asked for."""
        there = subprocess.run(["qstat", "-j", name], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
        return {None: "queued or running"} if there else {}


if __name__ == "__main__":
    cluster.main("run_sge.py", __doc__, GridEngine)
