"""What can be broken while a sweep works on a cluster: processes, nodes, files, the command itself.

Each fault is a function of a scene. It draws its victim with the scene's dice and says whether it
broke anything: a fault without a victim does not count.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster, pids_of
from submitting import Sweep, put_before, start_in_a_process, wait_until

from scalekit.results.live import ask_executors

PREEMPTOR = "preemptor"


@dataclass(frozen=True)
class Scene:
    """A sweep at work on a cluster, and the dice."""

    cluster: Cluster
    sweep: Sweep
    dice: random.Random
    patch: pytest.MonkeyPatch
    scratch: Path

    def jobs(self, state: str = "RUNNING") -> list[tuple[str, str]]:
        """The sweep's jobs in a state, with their nodes; the cluster has no other sweep's."""
        said = self.cluster.call("squeue", "-h", "-r", "-t", state, "-o", "%j|%F_%K|%N")
        rows = [line.split("|") for line in said.splitlines()]
        return [(job, node) for name, job, node in rows if name != PREEMPTOR]

    def any_job(self) -> str | None:
        found = self.jobs()
        return self.dice.choice(found)[0] if found else None

    def any_node(self) -> str | None:
        """A node that works on this sweep."""
        found = [node for _, node in self.jobs() if node]
        return self.dice.choice(found) if found else None

    def kill_any(self, pattern: str) -> bool:
        found = pids_of(self.cluster, pattern)
        try:
            os.kill(self.dice.choice(found), signal.SIGKILL)
        except (IndexError, ProcessLookupError):  # none, or it has just ended
            return False
        return True

    def tell(self, *words: str) -> bool:
        """Have one of Slurm's programs say something to any job."""
        job = self.any_job()
        if job is not None:
            self.say(*words, job)
        return job is not None

    def say(self, *words: str) -> None:
        """Call one of Slurm's programs; a controller that comes back late may have heard it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.cluster.call(*words, check=False)

    def cut(self, paths: list[Path]) -> bool:
        """Lose the end of one of these files, at any byte."""
        sizes = {path: path.stat().st_size for path in paths if path.is_file()}
        found = [path for path, size in sizes.items() if size]
        if found:
            path = self.dice.choice(found)
            os.truncate(path, self.dice.randrange(sizes[path]))
        return bool(found)

    def clear_the_queue(self) -> None:
        """Cancel what waits and runs, and wait until it is gone."""
        self.say("scancel", "-u", getpass.getuser())
        wait_until(lambda: not self.jobs("PENDING,RUNNING,COMPLETING"), 90.0, self.jobs)

    def is_at_work(self) -> bool:
        """Whether a job holds a run or will, or a process of a lost node still works on one.

        What Slurm holds because it could not launch it waits for the command to be repeated.
        """
        standing = ask_executors(self.sweep.folder)
        waits = any(not standing.jobs[run].is_held for run in standing.queued)
        return waits or bool(standing.troubles) or "running" in self.sweep.words()

    def wait_until_idle(self, seconds: float = 240.0) -> None:
        """Wait until nothing of the sweep is at work."""
        began = time.monotonic()
        while self.is_at_work():
            waited = time.monotonic() - began
            assert waited < seconds, f"waited too long: {self.sweep.states()}"
            self.nudge(waited)
            time.sleep(0.2)

    def nudge(self, waited: float) -> None:
        """Have the nodes register again where a sweep has not moved for long.

        Killed before it saved that a job has ended, the controller takes it for running until its
        node registers.
        """
        if waited > 20.0:
            self.say("scontrol", "reconfigure")
            time.sleep(5.0)

    def is_left(self) -> bool:
        """Whether some run has not ended."""
        return set(self.sweep.words()) != {"done"}

    def command_is_killed(self, **around_sbatch: str) -> bool:
        """Start the sweep command with a program before sbatch that kills it."""
        self.clear_the_queue()
        with self.patch.context() as patch:
            put_before(patch, self.scratch, "sbatch", **around_sbatch)
            # Nothing to submit, no sbatch, no kill.
            return start_in_a_process(self.sweep, self.scratch).wait() == -signal.SIGKILL


Fault = Callable[[Scene], bool]
FAULTS: dict[str, Fault] = {}


def fault(inject: Fault) -> Fault:
    FAULTS[inject.__name__] = inject
    return inject


# --- processes, jobs and nodes ------------------------------------------------------------------


@fault
def kill_a_run(scene: Scene) -> bool:
    return scene.kill_any(f"(fake_train.py|scalekit train) {scene.sweep.folder.root} ")


@fault
def kill_a_worker(scene: Scene) -> bool:
    """Kill a worker with its runs, as the kernel does where jobs have control groups."""
    workers = pids_of(scene.cluster, f"_slurm_worker {scene.sweep.folder.root}/")
    if not workers:
        return False
    worker = scene.dice.choice(workers)
    with contextlib.suppress(OSError):  # it may just have ended
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        for pid in [worker, *map(int, children)]:
            os.kill(pid, signal.SIGKILL)
    return True


@fault
def kill_a_job(scene: Scene) -> bool:
    return scene.tell("scancel", "--signal=KILL", "--full")


@fault
def cancel_a_job(scene: Scene) -> bool:
    return scene.tell("scancel")


@fault
def cancel_all_jobs(scene: Scene) -> bool:
    found = bool(scene.jobs("PENDING,RUNNING"))
    scene.say("scancel", "-u", getpass.getuser())
    return found


@fault
def announce_a_time_limit(scene: Scene) -> bool:
    return scene.tell("scancel", "--signal=USR2", "--batch")


@fault
def requeue_a_job(scene: Scene) -> bool:
    return scene.tell("scontrol", "requeue")


@fault
def preempt_everything(scene: Scene) -> bool:
    found = bool(scene.jobs())
    everything = ("--exclusive", f"--nodes={scene.cluster.nodes}", "--output=/dev/null")
    words = ("--partition=main", f"--job-name={PREEMPTOR}", "--wrap", "sleep 1")
    scene.cluster.call("sbatch", *everything, *words)
    return found


@fault
def set_a_node_down(scene: Scene) -> bool:
    node = scene.any_node()
    update = ("scontrol", "update", f"nodename={node}", "state=down", "reason=fault")
    return node is not None and scene.cluster.answers(*update)


@fault
def kill_a_nodes_daemon(scene: Scene) -> bool:
    node = scene.any_node()
    if node is None:
        return False
    scene.cluster.kill(f"slurmd.{node}")
    time.sleep(scene.dice.random())
    scene.cluster.start_node(node)
    return True


@fault
def cut_a_node_off(scene: Scene) -> bool:
    """End a node's daemon and watchers of steps: their jobs' processes live on unseen."""
    node = scene.any_node()
    if node is None:
        return False
    scene.cluster.kill(f"slurmd.{node}")
    for pid in pids_of(scene.cluster, r"^slurmstepd: "):
        if scene.dice.random() < 0.7:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    update = ("scontrol", "update", f"nodename={node}", "state=down", "reason=fault")
    scene.cluster.call(*update, check=False)
    return True


@fault
def kill_the_controller(scene: Scene) -> bool:
    """Kill it with what it was told in its last seconds unsaved."""
    found = bool(scene.jobs("PENDING,RUNNING"))
    scene.cluster.kill("slurmctld")
    time.sleep(scene.dice.random())
    scene.cluster.start_controller()
    return found


# --- files --------------------------------------------------------------------------------------


@fault
def cut_a_record(scene: Scene) -> bool:
    records = [scene.sweep.folder.record(run) for run in scene.sweep.ids]
    if not any(record.exists() for record in records):
        return False  # to clear the queue now would only keep them from being made
    scene.clear_the_queue()
    return scene.cut(records)


@fault
def cut_the_board(scene: Scene) -> bool:
    """Cut it under its workers' hands."""
    return bool(scene.jobs()) and scene.cut(sorted(scene.sweep.folder.root.glob("slurm/*/board")))


@fault
def lose_the_submissions_folder(scene: Scene) -> bool:
    found = bool(scene.jobs())
    shutil.rmtree(scene.sweep.folder.root / "slurm", ignore_errors=True)
    return found


@fault
def cut_the_log_of_submissions(scene: Scene) -> bool:
    scene.clear_the_queue()
    return scene.cut(sorted(scene.sweep.folder.jobs.iterdir()))


@fault
def fill_the_disk(scene: Scene) -> bool:
    """Let no file of a job grow past 1 KiB, which a record does in its first lines."""
    scene.clear_the_queue()
    started = scene.sweep.start(profile={"setup": ["ulimit -f 1"]}).started
    scene.wait_until_idle()
    return bool(started)


# --- the command on the login node ---------------------------------------------------------------


@fault
def kill_the_command_before_sbatch(scene: Scene) -> bool:
    return scene.command_is_killed(before="kill -9 $PPID; exit 1")


@fault
def kill_the_command_while_sbatch_works(scene: Scene) -> bool:
    return scene.command_is_killed(before=f"kill -9 $PPID; sleep {scene.dice.random():.2f}")


@fault
def kill_the_command_after_sbatch(scene: Scene) -> bool:
    return scene.command_is_killed(after="kill -9 $PPID")


@fault
def kill_the_command_at_any_moment(scene: Scene) -> bool:
    scene.clear_the_queue()
    command = start_in_a_process(scene.sweep, scene.scratch)
    time.sleep(0.2 + scene.dice.random())
    command.kill()
    return command.wait() == -signal.SIGKILL


@fault
def start_two_commands_at_once(scene: Scene) -> bool:
    scene.clear_the_queue()
    commands = [start_in_a_process(scene.sweep, scene.scratch) for _ in range(2)]
    # One is refused, unless it came when the other had finished.
    assert {command.wait() for command in commands} <= {0, 7}
    return True
