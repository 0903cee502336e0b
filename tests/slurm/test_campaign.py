"""A fault campaign: whatever is broken while a sweep runs, the same command ends it complete.

SCALEKIT_FAULTS sets how many faults are injected; kinds take turns, moments and victims are drawn
from the fault's number.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, free_port, pids_of, require_slurm
from submitting import Sweep, plan_sweep, put_before, start_in_a_process, wait_until

from scalekit.errors import SystemTroubleError

N_FAULTS = int(os.environ.get("SCALEKIT_FAULTS", "22"))
N_RUNS = 5
TRIES = 8
"""How often a person repeats the command before giving up."""

ALIVE = ("pending", "running", "requeued")
UNDISTURBED = [(step, 3.0 - step / 10) for step in (1, 2, 3, 4)]


@dataclass(frozen=True)
class Scene:
    """A sweep at work on a cluster, and the dice of one fault."""

    cluster: Cluster
    sweep: Sweep
    dice: random.Random
    patch: pytest.MonkeyPatch
    scratch: Path

    def names(self) -> str:
        return ",".join(folder.path.name for folder in self.sweep.submissions())

    def jobs(self, state: str = "RUNNING") -> list[str]:
        words = ("squeue", "-h", "-r", "-t", state, f"--name={self.names()}", "-o", "%F_%K %N")
        return self.cluster.call(*words).splitlines()

    def any_job(self) -> str:
        return self.dice.choice(self.jobs() or ["0_0 n1"]).split()[0]

    def any_node(self) -> str:
        found = [line.split()[1] for line in self.jobs() if len(line.split()) > 1]
        return self.dice.choice(found or self.cluster.node_names)

    def kill_any(self, pattern: str) -> None:
        found = pids_of(self.cluster, pattern)
        if found:
            os.kill(self.dice.choice(found), signal.SIGKILL)

    def cut(self, path: Path) -> None:
        """Lose the end of a file, at any byte."""
        if path.exists():
            os.truncate(path, self.dice.randrange(path.stat().st_size + 1))


Fault = Callable[[Scene], Any]
FAULTS: dict[str, Fault] = {}


def fault(inject: Fault) -> Fault:
    FAULTS[inject.__name__] = inject
    return inject


# --- processes, jobs and nodes ------------------------------------------------------------------


@fault
def kill_a_run(scene: Scene) -> None:
    scene.kill_any(f"fake_train.py {scene.sweep.folder.root} ")


@fault
def kill_a_worker(scene: Scene) -> None:
    """Kill a worker with its runs, as the kernel does where jobs have control groups."""
    workers = pids_of(scene.cluster, f"_slurm_worker {scene.sweep.folder.root}/")
    if workers:
        worker = scene.dice.choice(workers)
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        for pid in [worker, *map(int, children)]:
            os.kill(pid, signal.SIGKILL)


@fault
def kill_a_job(scene: Scene) -> None:
    scene.cluster.call("scancel", "--signal=KILL", "--full", scene.any_job(), check=False)


@fault
def cancel_a_job(scene: Scene) -> None:
    scene.cluster.call("scancel", scene.any_job(), check=False)


@fault
def cancel_all_jobs(scene: Scene) -> None:
    scene.cluster.call("scancel", f"--name={scene.names()}", check=False)


@fault
def announce_a_time_limit(scene: Scene) -> None:
    scene.cluster.call("scancel", "--signal=USR2", "--batch", scene.any_job(), check=False)


@fault
def requeue_a_job(scene: Scene) -> None:
    scene.cluster.call("scontrol", "requeue", scene.any_job(), check=False)


@fault
def preempt_everything(scene: Scene) -> None:
    everything = ("--exclusive", f"--nodes={scene.cluster.nodes}", "--output=/dev/null")
    scene.cluster.call("sbatch", "--partition=main", *everything, "--wrap", "sleep 1")


@fault
def set_a_node_down(scene: Scene) -> None:
    node = f"nodename={scene.any_node()}"
    scene.cluster.call("scontrol", "update", node, "state=down", "reason=fault")


@fault
def kill_a_nodes_daemon(scene: Scene) -> None:
    node = scene.any_node()
    scene.cluster.kill(f"slurmd.{node}")
    time.sleep(scene.dice.random())
    scene.cluster.start_node(node)


@fault
def cut_a_node_off(scene: Scene) -> None:
    """End a node's daemon and watchers of steps: their jobs' processes live on unseen."""
    node = scene.any_node()
    scene.cluster.kill(f"slurmd.{node}")
    for pid in pids_of(scene.cluster, r"^slurmstepd: "):
        if scene.dice.random() < 0.7:
            os.kill(pid, signal.SIGKILL)
    update = ("scontrol", "update", f"nodename={node}", "state=down", "reason=fault")
    scene.cluster.call(*update, check=False)


@fault
def kill_the_controller(scene: Scene) -> None:
    """Kill it with what it was told in its last seconds unsaved."""
    scene.cluster.kill("slurmctld")
    time.sleep(scene.dice.random())
    scene.cluster.start_controller()


# --- files --------------------------------------------------------------------------------------


@fault
def cut_a_record(scene: Scene) -> None:
    cancel_all_jobs(scene)
    wait_until(lambda: not scene.jobs("PENDING,RUNNING,COMPLETING"))
    scene.cut(scene.sweep.folder.record(scene.dice.choice(scene.sweep.ids)))


@fault
def cut_the_board(scene: Scene) -> None:
    scene.cut(scene.sweep.submissions()[-1].board)


@fault
def lose_the_submissions_folder(scene: Scene) -> None:
    shutil.rmtree(scene.sweep.folder.root / "slurm")


@fault
def cut_the_log_of_submissions(scene: Scene) -> None:
    cancel_all_jobs(scene)
    wait_until(lambda: not scene.jobs("PENDING,RUNNING,COMPLETING"))
    scene.cut(scene.dice.choice(sorted(scene.sweep.folder.jobs.iterdir())))


@fault
def fill_the_disk(scene: Scene) -> None:
    """Let no file of a job grow past 1 KiB, which a record does in its first lines."""
    cancel_all_jobs(scene)
    wait_until(lambda: not scene.jobs("PENDING,RUNNING,COMPLETING"))
    scene.sweep.start(profile={"setup": ["ulimit -f 1"]})
    wait_until(lambda: not set(scene.sweep.words()) & set(ALIVE))


# --- the command on the login node ---------------------------------------------------------------


def _again_from_nothing(scene: Scene) -> None:
    cancel_all_jobs(scene)
    wait_until(lambda: not scene.jobs("PENDING,RUNNING,COMPLETING"))


@fault
def kill_the_command_before_sbatch(scene: Scene) -> None:
    _again_from_nothing(scene)
    with scene.patch.context() as patch:
        put_before(patch, scene.scratch, "sbatch", before="kill -9 $PPID; exit 1")
        assert start_in_a_process(scene.sweep, scene.scratch).wait() == -9


@fault
def kill_the_command_while_sbatch_works(scene: Scene) -> None:
    _again_from_nothing(scene)
    pause = f"sleep {scene.dice.random():.2f}"
    with scene.patch.context() as patch:
        put_before(patch, scene.scratch, "sbatch", before=f"kill -9 $PPID; {pause}")
        assert start_in_a_process(scene.sweep, scene.scratch).wait() == -9


@fault
def kill_the_command_after_sbatch(scene: Scene) -> None:
    _again_from_nothing(scene)
    with scene.patch.context() as patch:
        put_before(patch, scene.scratch, "sbatch", after="kill -9 $PPID")
        assert start_in_a_process(scene.sweep, scene.scratch).wait() == -9


@fault
def kill_the_command_at_any_moment(scene: Scene) -> None:
    _again_from_nothing(scene)
    command = start_in_a_process(scene.sweep, scene.scratch)
    time.sleep(0.2 + scene.dice.random())
    command.kill()
    command.wait()


@fault
def start_two_commands_at_once(scene: Scene) -> None:
    _again_from_nothing(scene)
    commands = [start_in_a_process(scene.sweep, scene.scratch) for _ in range(2)]
    # One is refused, unless it came when the other had finished.
    assert {command.wait() for command in commands} <= {0, 7}


# --- the campaign --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a cluster that these tests may break."""
    require_slurm(accounting=False)
    settings = {"SlurmdTimeout": "5"}
    cluster = Cluster(tmp_path_factory.mktemp("fragile"), free_port(40), nodes=2, settings=settings)
    cluster.start()
    yield cluster
    cluster.stop()


def end_complete(scene: Scene) -> int:
    """Repeat the same command until nothing is left; return how often it took."""
    for n in range(1, TRIES + 1):
        scene.cluster.mend()
        try:
            scene.sweep.start()
        except SystemTroubleError:
            time.sleep(1.0)  # the scheduler or another command is in the way: try again
            continue
        wait_until(lambda: not set(scene.sweep.words()) & set(ALIVE), 120.0, scene.sweep.words)
        if set(scene.sweep.words()) == {"done"}:
            return n
    raise AssertionError(f"{TRIES} times the same command left {scene.sweep.states()}")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(N_FAULTS))
def test_after_a_fault_the_same_command_ends_with_the_undisturbed_table(
    number: int,
    fragile: Cluster,
    make_sweep: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in fragile.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    inject = list(FAULTS.values())[number % len(FAULTS)]
    dice = random.Random(number)
    fragile.mend()
    sweep = plan_sweep(tmp_path / "demo", make_sweep.plan_line, N_RUNS)
    for run in range(N_RUNS):
        sweep.fake(run, seconds=0.2 + 0.3 * dice.random())
    sweep.need(pack=dice.choice([1, 1, 2]))
    scene = Scene(fragile, sweep, dice, monkeypatch, tmp_path)
    # Only jobs of the low partition can be preempted.
    partition = "low" if inject is preempt_everything else dice.choice(["main", "low"])
    sweep.start(profile={"partition": partition})
    wait_until(lambda: "running" in sweep.words())
    time.sleep(dice.random())
    inject(scene)
    n_commands = end_complete(scene)
    assert sweep.losses() == [UNDISTURBED] * N_RUNS
    assert sweep.start().started == ()
    fragile.clear()
    REPORT.append((inject.__name__, n_commands, sum(sweep.attempts())))


REPORT: list[tuple[str, int, int]] = []
"""Of each fault: its kind, the commands it took afterwards, the attempts of all runs."""


@pytest.mark.slow
def test_the_campaign_is_reported(tmp_path: Path) -> None:
    """Print the table for the docs; run with -s to see it."""
    if not REPORT:
        pytest.skip("no fault was injected in this process")
    for kind in dict.fromkeys(kind for kind, _, _ in REPORT):
        rows = [row for row in REPORT if row[0] == kind]
        most, attempts = max(row[1] for row in rows), sum(row[2] for row in rows)
        words = kind.replace("_", " ")
        sys.stdout.write(
            f"| {words} | {len(rows)} | {most} | {attempts / len(rows) / N_RUNS:.2f} |\n"
        )
