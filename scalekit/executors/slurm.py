"""Runs as jobs of a Slurm cluster: a manifest, a board and one sbatch for however many runs.

submitit writes the script; it does not submit. Its own arrays cost a
pickle and a folder a run, are watched through sacct alone, and a function that it runs dies of the
signal that announces the time limit. Here an array's elements are workers, all alike, that claim
runs from the submission's board (`_slurm_board`) and call `scalekit train` (`_slurm_worker`). So
ten thousand runs are three files and a call of ten milliseconds, and no limit on the number of jobs
stands in a sweep's way: fewer workers take more runs each.

A submission has a unique name, written down before sbatch is called, and the name is the job name:
a command that dies before it reads sbatch's answer loses nothing, for whoever looks next asks the
queue by the name.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from scalekit.errors import InputError, SystemTroubleError
from scalekit.executors._slurm_board import ENDED, Folder
from scalekit.executors._slurm_judge import judge_runs
from scalekit.executors._slurm_limits import Limits, read_limits
from scalekit.executors._slurm_manifest import python_words, write_manifest
from scalekit.executors._slurm_options import Group, check_group, group_jobs
from scalekit.executors._slurm_queue import ask_queue, call
from scalekit.executors.base import Handle, Job, JobState, Placed, Settings, Watch

_NAME_LENGTH = 40
_AT_A_TIME = 1000
"""Jobs that one call names: Linux takes no argument of more than 128 KiB."""
_SHOWN = 20


class Slurm:
    """The executor: it returns when the jobs are in the queue."""

    in_foreground = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        folder = settings.folder or Path("slurm")
        # Not resolved: the nodes may reach the folder by another way than its links say.
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100
        self._limits: Limits | None = None

    # --- submitting ----------------------------------------------------------------------------

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse what this cluster would never start.

        Raises:
            InputError: A run needs more than the partition allows.
            SystemTroubleError: There is no Slurm here, or not this partition.
        """
        if not jobs:
            return
        self._refuse_line_breaks()
        limits = self._limits = self._limits or read_limits(self.settings.profile)
        for group in group_jobs(jobs, self.settings, limits):
            check_group(group, limits, self.settings.profile)

    def _refuse_line_breaks(self) -> None:
        """Refuse what would break the lines of a job's script apart.

        Raises:
            InputError: A control character in the folder's path or in the profile.
        """
        if not str(self.folder).isprintable():
            raise InputError(
                f"{str(self.folder)!r}: a line break in a path cannot be written into a job's "
                "script; choose another folder with --out"
            )
        for key, value in self.settings.profile.items():
            words = [value] if isinstance(value, str) else value if key == "sbatch" else []
            for word in words or ():
                if not word.isprintable():
                    raise InputError(f"profile.{key}: a line break in {word!r}; take it out")

    def start(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Submit the jobs, an array for each set of equal needs.

        Raises:
            SystemTroubleError: sbatch refuses one; those before it stay submitted.
        """
        limits = self._limits or read_limits(self.settings.profile)
        groups = group_jobs(jobs, self.settings, limits)
        for number, group in enumerate(groups, start=1):
            n_jobs = self._submit(group, limits, watch, n_to_come=len(groups) - number)
            if limits.room is not None:
                limits = replace(limits, room=limits.room - n_jobs)

    def _submit(self, group: Group, limits: Limits, watch: Watch, *, n_to_come: int) -> int:
        """Submit one group, leaving room for those to come; return how many jobs it became."""
        sweep = re.sub(r"[^A-Za-z0-9_.-]", "_", self.folder.parent.name)[:_NAME_LENGTH]
        name = f"{sweep}-{secrets.token_hex(4)}"
        folder = Folder(self.folder / name)
        try:
            write_manifest(folder, group, self.settings, self.folder.parent)
            folder.script.write_text(self._script(group, name, folder), encoding="utf-8")
        except OSError as error:
            raise SystemTroubleError(
                f"{folder.path}: cannot be written, {error.strerror}; free some space and run the "
                "same command again, it continues"
            ) from error
        handle = {"name": name, "user": getpass.getuser(), "time": time.time()}
        watch.started(group.jobs, handle)
        sizes = self._sizes(group, limits, n_to_come)
        arrays = [self._sbatch(folder, name, size) for size in sizes]
        n_runs = sum(len(job.runs) for job in group.jobs)
        many = f"{n_runs:,} run{'s' * (n_runs != 1)}"
        sys.stderr.write(f"submitted {many} as job {', '.join(arrays)} ({name})\n")
        return sum(sizes)

    def _sizes(self, group: Group, limits: Limits, n_to_come: int) -> list[int]:
        """Choose how many elements each array of a group has.

        As many as there are runs to fill them, as far as the cluster takes them: workers that find
        nothing end at once, and the others go on, so fewer do as well.
        """
        # A branch is taken by whoever trained its trunk, or is free by then.
        wanted = -(-sum(not job.after for job in group.jobs) // group.pack)
        # Half of the limit: finished jobs count for minutes, and others want to submit too.
        wanted = min(wanted, limits.jobs // 2)
        if limits.room is not None:
            wanted = min(wanted, limits.room - n_to_come)
        wanted = max(1, wanted)
        if self.settings.max_parallel is not None:
            # A throttle holds within one array.
            wanted = min(wanted, limits.array)
        whole, rest = divmod(wanted, limits.array)
        return [limits.array] * whole + [rest] * (rest > 0)

    def _sbatch(self, folder: Folder, name: str, size: int) -> str:
        """Submit an array and return its number.

        Raises:
            SystemTroubleError: sbatch refuses, and the queue does not know the submission either.
        """
        most = self.settings.max_parallel
        throttle = f"%{most}" if most is not None and most < size else ""
        # On the command line, which a person's SBATCH_JOB_NAME and its like do not beat.
        argv = ["sbatch", "--parsable", *_options(folder.script.read_text(encoding="utf-8"))]
        argv += [f"--job-name={name}", f"--array=0-{size - 1}{throttle}"]
        argv += [f"--chdir={self.folder.parent}", f"--output={_output(folder)}"]
        try:
            said = call([*argv, str(folder.script)], seconds=300.0)
        except SystemTroubleError as error:
            return self._adopted(folder, name, error)
        return said.strip().partition(";")[0]

    def _adopted(self, folder: Folder, name: str, error: SystemTroubleError) -> str:
        """Look whether what sbatch says it could not submit is in the queue after all.

        Raises:
            SystemTroubleError: It is not.
        """
        try:
            rows = ask_queue([name], [getpass.getuser()])
        except SystemTroubleError:
            raise error from None
        # The queue may still list a job that was refused, as failed.
        alive = [row.array for row in rows if row.is_alive]
        if alive:
            return alive[0]
        if "imed out" not in str(error):
            shutil.rmtree(folder.path, ignore_errors=True)
        raise SystemTroubleError(
            f"{error}; mend that and run the same command again, it submits what is missing"
        ) from error

    def _script(self, group: Group, name: str, folder: Folder) -> str:
        from submitit import SlurmExecutor

        profile = self.settings.profile
        names = ("partition", "account", "qos", "constraint")
        writer = SlurmExecutor(folder=folder.path)
        writer.update_parameters(
            job_name=name,
            comment="scalekit",
            time=None if group.limit is None else -int(-group.limit // 60),
            nodes=group.nodes,
            # One task a node: the worker is on the first, and starts what runs on the others.
            ntasks_per_node=1,
            cpus_per_task=group.cpus_per_node,
            gpus_per_node=group.gpus // group.nodes or None,
            # Until the worker is there to hear it, the signal would end the shell.
            setup=["trap '' USR2", *(profile.get("setup") or ())],
            use_srun=False,
            wckey=None,
            stderr_to_stdout=True,
            additional_parameters={
                **_further_options(profile.get("sbatch") or ()),
                # To the script alone, whose last line becomes the worker by `exec`.
                "signal": f"B:USR2@{group.lead}",
                "requeue": True,
                "output": _output(folder),
                **({"reservation": profile["reservation"]} if profile.get("reservation") else {}),
            },
            mem=_memory(group),
            **{key: profile[key] for key in names if profile.get(key)},
        )
        module = "scalekit.executors._slurm_worker"
        worker = f"exec {python_words(profile)} -u -m {module} {shlex.quote(str(folder.path))}"
        worker += f" {profile['python']}" if profile.get("python") else ""
        return writer._make_submission_file_text(worker, name)

    # --- asking and stopping -------------------------------------------------------------------

    def states(self, placed: Sequence[Placed]) -> list[JobState]:
        """Say where these runs are: from the boards, one squeue, and one sacct if need be."""
        return judge_runs(self.folder, placed)

    def release(self, placed: Sequence[Placed]) -> list[str]:
        """Let go the jobs of these runs' submissions that Slurm could not launch and so holds."""
        names = sorted({handle["name"] for _, handle in placed})
        try:
            rows = ask_queue(names, {handle["user"] for _, handle in placed})
            jobs = [job for row in rows if row.is_held for job in row.jobs]
            for start in range(0, len(jobs), _AT_A_TIME):
                call(["scontrol", "release", ",".join(jobs[start : start + _AT_A_TIME])])
            if jobs:
                more = f" and {len(jobs) - _SHOWN:,} more" if len(jobs) > _SHOWN else ""
                told = f"{', '.join(jobs[:_SHOWN])}{more}"
                sys.stderr.write(f"released {told}, which Slurm could not launch\n")
        except SystemTroubleError as error:
            return [str(error)]
        return []

    def cancel(self, placed: Sequence[Placed]) -> list[str]:
        """Ask these runs to save and stop; whole submissions leave the queue."""
        by_name: dict[str, list[str]] = {}
        users: dict[str, Handle] = {}
        for run, handle in placed:
            by_name.setdefault(handle["name"], []).append(run)
            users[handle["name"]] = handle
        sentences = (self._cancel(name, runs, users[name]) for name, runs in by_name.items())
        return [sentence for sentence in sentences if sentence]

    def _cancel(self, name: str, runs: Sequence[str], handle: Handle) -> str | None:
        folder = Folder(self.folder / name)
        try:
            # Written first: workers learn from it that they are not to go back to the queue.
            folder.cancel(runs)
        except OSError as error:
            return f"{folder.cancelled}: cannot be written, {error.strerror}"
        unwanted = folder.read_cancelled()
        if any(line.state not in ENDED and line.run not in unwanted for line in folder.lines()):
            return None  # the workers look at the file
        chosen = [f"--name={name}", f"--user={handle['user']}"]
        try:
            call(["scancel", "--state=PENDING", *chosen])
            # The workers let their runs save and leave: there is no KillWait to beat.
            call(["scancel", "--state=RUNNING", "--signal=USR2", "--batch", *chosen])
        except SystemTroubleError as error:
            return str(error)
        return None


def _memory(group: Group) -> str | None:
    """Return the memory of a job on each of its nodes; Slurm's M is 2**20 bytes."""
    if group.memory_gb is None:
        return None
    return f"{-(-int(group.memory_gb * 1e9 / group.nodes) // 2**20)}M"


def _further_options(words: Sequence[str]) -> dict[str, str | bool]:
    """Read options as sbatch has them: `--exclusive`, `--mem-per-gpu=40G`."""
    pairs = [word.strip().lstrip("-").partition("=") for word in words]
    return {name: value if equals else True for name, equals, value in pairs}


def _options(script: str) -> list[str]:
    """Return the options that a script gives to sbatch: in comments before its first command."""
    head = takewhile(lambda line: not line or line.startswith("#"), script.splitlines())
    found = (line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH "))
    return [word for line in found for word in shlex.split(line)]


def _output(folder: Folder) -> str:
    """Return where jobs write: a percent sign of the folder's own is no pattern of Slurm's."""
    return str(folder.path).replace("%", "%%") + "/%A_%a.out"


EXECUTOR = Slurm
