#!/usr/bin/env python3
"""Run tasks through Slurm, as one array, with the interface and the log format of Kaldi's slurm.pl.

What differs between sites (partition, account, graphics cards, container) is in conf/slurm.conf. All tasks are run,
even when one fails; the status is 0 when all went well, 1 when one failed, was killed, ran over its time or vanished.
Ctrl-C or SIGTERM cancels the array.
"""

import cluster


class Slurm:
    site = "conf/slurm.conf"
    number = '"$SLURM_ARRAY_TASK_ID"'

    @staticmethod
    def submit(name, folder, todo, max_jobs_run):
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
    def cancel(name):
        cluster.ask("scancel", "--quiet", f"--user={cluster.user()}", f"--name={name}")

    @staticmethod
    def states(name):
        """Return {number: state} of the tasks that Slurm still remembers: for some minutes after they ended.

        Tasks that were cancelled before they started stand together, under None.
        """
        whose = (f"--user={cluster.user()}", f"--name={name}")
        lines = cluster.ask("squeue", "--noheader", "--array", "--states=all", *whose, "--format=%K %T").splitlines()
        words = map(str.split, lines)
        return {int(number) if number.isdigit() else None: state for number, state in words}


if __name__ == "__main__":
    cluster.main("run_slurm.py", __doc__, Slurm)
