"""Sweeps of stand-ins for runs, handed to a real Slurm, and waiting for what becomes of them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scalekit.executors._slurm_board import Folder, Line
from scalekit.executors.base import Executor, Settings
from scalekit.executors.inline import Inline
from scalekit.executors.slurm import Slurm
from scalekit.launch.submit import Outcome, submit
from scalekit.results.collect import collect
from scalekit.results.live import ask_executors
from scalekit.results.record import RunRecord, read_record
from scalekit.results.states import RunState, scan_states, with_job
from scalekit.results.store import SweepFolder
from scalekit.results.table import table_text
from scalekit.sweep.spec import RunSpec
from scalekit.sweep.stacks import Group

FAKE = Path(__file__).parents[1] / "executors" / "fake_train.py"


def fake_argv(folder: SweepFolder, run: str) -> tuple[str, ...]:
    return (sys.executable, str(FAKE), str(folder.root), run)


@dataclass(frozen=True)
class Named:
    name: str

    def resolved_yaml(self) -> str:
        return f"scalekit: 1\nname: {self.name}\n"


@dataclass(frozen=True)
class Expansion:
    spec: Named
    runs: tuple[RunSpec, ...] = field(default=())


@dataclass
class Sweep:
    """A sweep of fake runs in a folder; every question about it is asked anew.

    Attributes:
        lines: The plan; change `config.train.fake` and `resources` before `start`.
        n_stacked: How many of the first runs go together as a stack.
    """

    folder: SweepFolder
    lines: list[dict[str, Any]]
    n_stacked: int = 0

    def fake(self, number: int, **faults: Any) -> None:
        """Plan what a run does (see fake_train.py)."""
        self.lines[number]["config"]["train"]["fake"] = faults

    def fake_all(self, **faults: Any) -> None:
        for number in range(len(self.lines)):
            self.fake(number, **faults)

    def need(self, **resources: Any) -> None:
        """Say what every run needs."""
        for line in self.lines:
            line["resources"] = {**line["resources"], **resources}

    @property
    def ids(self) -> list[str]:
        return [line["id"] for line in self.lines]

    def runs(self) -> tuple[RunSpec, ...]:
        return tuple(RunSpec.from_json(line) for line in self.lines)

    def start(self, *, retry: tuple[str, ...] = (), **settings: Any) -> Outcome:
        """Submit what is missing."""
        executor = Slurm(Settings(folder=self.folder.root / "slurm", safety=1.5, **settings))
        return self._submit(executor, "slurm", retry)

    def run_inline(self) -> Outcome:
        """Train what is missing here and now."""
        return self._submit(Inline(Settings()), "inline", ())

    def _submit(self, executor: Executor, kind: str, retry: tuple[str, ...]) -> Outcome:
        expansion = Expansion(Named(self.folder.root.name), self.runs())
        stacks = [Group(tuple(self.ids[: self.n_stacked]))] if self.n_stacked else []
        options: dict[str, Any] = {"kind": kind, "retry": retry, "stacks": stacks}
        return submit(expansion, self.folder, executor, argv=fake_argv, **options)

    def states(self) -> dict[str, RunState]:
        jobs = ask_executors(self.folder).jobs
        found = scan_states(self.folder, self.ids)
        return {run: with_job(state, jobs.get(run)) for run, state in found.items()}

    def words(self) -> list[str]:
        return [state.status for state in self.states().values()]

    def told(self) -> str:
        """What a person would see: states with their reasons, and what workers printed."""
        said = [f"{run} {s.status}: {s.why}" for run, s in self.states().items()]
        outputs = sorted((self.folder.root / "slurm").glob("*/*.out"))
        return "\n".join(["", *said, *(f"{p.name}: {p.read_text()}" for p in outputs)])

    def wait_for(self, *words: str, seconds: float = 60.0) -> None:
        """Wait until the runs' states are these, in the plan's order; one word stands for all."""
        wanted = list(words) if len(words) > 1 else list(words) * len(self.lines)
        wait_until(lambda: self.words() == wanted, seconds, self.told)

    def submissions(self) -> list[Folder]:
        """The submissions' folders, oldest first."""
        folders = [path for path in (self.folder.root / "slurm").iterdir() if path.is_dir()]
        return [Folder(path) for path in sorted(folders, key=lambda p: p.stat().st_ctime)]

    def board(self) -> list[Line]:
        """The newest submission's board."""
        return self.submissions()[-1].lines()

    def record(self, number: int) -> RunRecord:
        return read_record(self.folder.record(self.ids[number]))

    def attempts(self) -> list[int]:
        return [len(self.record(number).attempts) for number in range(len(self.lines))]

    def losses(self) -> list[list[tuple[int, float]]]:
        """What the runs report, by step: equal however often a run was interrupted."""
        records = [self.record(number) for number in range(len(self.lines))]
        return [[(e["step"], e["val_loss"]) for e in record.evals] for record in records]


SPENT = (
    *("source", "flags", "wall_s", "device_s", "startup_s", "eval_s", "checkpoint_s"),
    *("energy_j", "mfu", "tokens_per_second", "peak_memory_bytes", "attempts"),
)
"""Columns of the table that say how runs went, not what came of them."""


def table(folder: SweepFolder) -> list[dict[str, str]]:
    """The collected table as it is written, without what an interruption changes."""
    rows = csv.DictReader(table_text(collect([folder.root])).splitlines())
    return [
        {k: v for k, v in row.items() if k not in SPENT and not k.startswith("train.fake")}
        for row in rows
    ]


def plan_sweep(root: Path, plan_line: Callable[..., dict[str, Any]], n_runs: int) -> Sweep:
    lines = json.loads(json.dumps([plan_line(number) for number in range(n_runs)]))
    return Sweep(SweepFolder(root), lines)


def wait_until(
    condition: Callable[[], object], seconds: float = 60.0, shown: Callable[[], object] = str
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited too long: {shown()}"
        time.sleep(0.2)


def intervals(sweep: Sweep) -> list[tuple[float, float]]:
    """When each run began and ended."""
    found = []
    for number in range(len(sweep.lines)):
        record = sweep.record(number)
        assert record.end is not None
        found.append((record.attempts[0]["began"], record.end["ended"]))
    return found


def most_at_once(spans: list[tuple[float, float]]) -> int:
    return max(sum(a <= moment < b for a, b in spans) for moment, _ in spans)


SHIM = """#!/bin/bash
# Stands before Slurm's own program in PATH.
{before}
{program} "$@"
code=$?
{after}
exit $code
"""


def put_before(
    patch: pytest.MonkeyPatch, folder: Path, program: str, *, before: str = "", after: str = ""
) -> None:
    """Put lines of bash before and after one of Slurm's programs."""
    path = folder / "bin" / program
    path.parent.mkdir(exist_ok=True)
    path.write_text(SHIM.format(before=before, program=shutil.which(program), after=after))
    path.chmod(0o755)
    patch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")


STAND_IN = """#!/bin/bash
# A Python that hands `scalekit train` over to a stand-in.
if [ "$1 $2 $3" = "-m scalekit train" ]; then shift 3; exec {python} {fake} "$@"; fi
exec {python} "$@"
"""


def stand_in_python(path: Path) -> None:
    """Write an interpreter for the nodes that trains nothing."""
    path.write_text(STAND_IN.format(python=sys.executable, fake=FAKE))
    path.chmod(0o755)


SUBMIT = """
import json, os, signal, sys
from pathlib import Path
from scalekit.errors import ScalekitError
from scalekit.results.store import SweepFolder
from submitting import Sweep
root, kill_at, steps = sys.argv[1], int(os.environ.get("KILL_AT", "0")), []
EFFECTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "subprocess.Popen")

def watch(event, words):
    # What the command does to the sweep's folder and asks of the scheduler, one after the other.
    if event == "open":
        changes = words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        changes = event in EFFECTS
    if changes and (event == "subprocess.Popen" or str(words[0]).startswith(root)):
        steps.append(f"{event} {words[0]}")
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

lines = [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()]
sys.addaudithook(watch)
try:
    Sweep(SweepFolder(Path(root)), lines).start()
    print(*steps, sep="\\n")
except ScalekitError as error:
    sys.exit(error.exit_code)
"""


def start_in_a_process(sweep: Sweep, folder: Path, *, kill_at: int = 0) -> subprocess.Popen[bytes]:
    """Run the submitting command in a process of its own, which may be killed.

    It writes its steps into `folder`: each change of the sweep's folder and each call of a program.
    At the step `kill_at`, before it is taken, it kills itself.
    """
    plan = folder / "wanted.jsonl"
    plan.write_text("".join(json.dumps(line) + "\n" for line in sweep.lines))
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parent)])
    with (folder / "steps").open("wb") as steps:
        return subprocess.Popen(
            [sys.executable, "-c", SUBMIT, str(sweep.folder.root), str(plan)],
            env={**os.environ, "PYTHONPATH": path, "KILL_AT": str(kill_at)},
            stdout=steps,
            stderr=subprocess.DEVNULL,
        )
