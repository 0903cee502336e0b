"""A fault campaign: whatever is broken while a sweep runs, the same command ends it complete.

Each part breaks everything that `faults` knows, one after the other in an order drawn from the
part's number, in sweeps at work; the command is repeated as a person would, and the table must be
that of a sweep that nobody disturbed. The last test prints what was broken, for the docs.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, free_port, require_slurm, worker_number
from faults import FAULTS, Scene
from submitting import Sweep, fake_argv, plan_sweep, start_in_a_process, table, wait_until

from scalekit.cli import run
from scalekit.errors import OK, SystemTroubleError
from scalekit.executors.inline import run_here
from scalekit.launch.missing import find_missing
from scalekit.launch.submit import Outcome
from scalekit.results.plan import move_aside
from scalekit.results.store import SweepFolder

N_PARTS = 10
N_RUNS = 12
TRIES = 8
"""How often a person repeats the command, once nothing is broken any more, before giving up."""

DONE: Counter[str] = Counter()
"""What was broken so far, by kind, in sweeps that ended complete."""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a cluster that these tests may break."""
    require_slurm(accounting=False)
    home, port = tmp_path_factory.mktemp("fragile"), free_port(40 + worker_number())
    cluster = Cluster(home, port, nodes=2, settings={"SlurmdTimeout": "5"})
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def here(fragile: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name, value in fragile.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    fragile.mend()
    return fragile


def start(scene: Scene) -> int:
    """Give the sweep command as a person does who is told to try again."""
    for _ in range(20):
        try:
            settings: dict[str, Any] = {"partition": "low"}
            return len(scene.sweep.start(profile=settings, max_parallel=4).started)
        except SystemTroubleError:
            time.sleep(0.5)  # the scheduler does not answer, another command works
    raise AssertionError("the command was refused 20 times")


def end_complete(scene: Scene) -> int:
    """Repeat the same command until nothing is left; return how often it took."""
    for n in range(TRIES):
        scene.cluster.mend()
        if not start(scene) and not scene.is_left():
            return n
        scene.wait_until_idle()
    raise AssertionError(f"{TRIES} times the same command left {scene.sweep.states()}")


def get_going(scene: Scene) -> bool:
    """Repeat the command until a run is at work; say whether any is left."""
    scene.cluster.mend()
    began = time.monotonic()
    while scene.is_left() and "running" not in scene.sweep.words():
        waited = time.monotonic() - began
        assert waited < 240.0, scene.sweep.states()
        if not scene.is_at_work():
            start(scene)
        scene.nudge(waited)
        time.sleep(0.2)
    return scene.is_left()


def one_sweep(scene: Scene, deck: list[str], told: list[str], *, pause: float = 0.5) -> None:
    """Break what is on top of the deck while a sweep works, until it is done or all is broken.

    `pause` is the longest time between two faults.
    """
    while deck and get_going(scene):
        time.sleep(pause * scene.dice.random())
        if FAULTS[deck[0]](scene):
            told.append(deck.pop(0))
        else:
            deck.append(deck.pop(0))  # it found nothing to break; later perhaps


def in_two_groups(n_parts: int) -> list[Any]:
    """Let two of pytest-xdist's workers share the parts, each with a cluster of its own."""
    groups = [pytest.mark.xdist_group(f"campaign-{part % 2}") for part in range(n_parts)]
    return [pytest.param(part, marks=groups[part]) for part in range(n_parts)]


@pytest.mark.slow
@pytest.mark.parametrize("part", in_two_groups(N_PARTS))
def test_whatever_is_broken_the_same_command_ends_with_the_undisturbed_table(
    part: int, here: Cluster, make_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(part)
    deck, told = dice.sample(list(FAULTS), len(FAULTS)), []
    undisturbed = plan_sweep(tmp_path / "undisturbed", make_sweep.plan_line, N_RUNS)
    undisturbed.run_inline()
    wanted = table(undisturbed.folder)
    assert {row["status"] for row in wanted} == {"done"}
    while deck:
        first = len(told)
        sweep = plan_sweep(tmp_path / f"sweep-{first}", make_sweep.plan_line, N_RUNS)
        for number in range(N_RUNS):
            sweep.fake(number, seconds=0.3 + 0.4 * dice.random())
        sweep.need(pack=dice.choice([1, 1, 2]))
        sweep.n_stacked = dice.choice([0, 3])
        scene = Scene(here, sweep, dice, monkeypatch, tmp_path)
        one_sweep(scene, deck, told)
        n = end_complete(scene)
        assert table(sweep.folder) == wanted, told[first:]
        sys.stdout.write(f"{n} commands after {', '.join(told[first:])}\n")
        here.clear()
    DONE.update(told)
    assert sorted(told) == sorted(FAULTS)


def test_the_campaign_has_two_hundred_faults() -> None:
    assert N_PARTS * len(FAULTS) >= 200


def batched(numbers: range, size: int) -> list[range]:
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]


# --- real runs -----------------------------------------------------------------------------------

REAL = """\
scalekit: 1
name: real
base:
  model: {d_model: 16, n_layers: 1, head_dim: 16, context: 32}
  data: {source: synthetic, val_tokens: 1024}
  train: {steps: 1500, batch_tokens: 256}
  log: {every: 50, evals: 3, checkpoint_steps: 100}
grid: {train.lr: [1e-3, 2e-3, 3e-3]}
executor: {max_parallel: 2}
profile: {partition: low}
"""
N_REAL_FAULTS = 4
OPTIONS = ("--yes", "--allow-unidentified")
ON_REAL = (
    *("kill_a_run", "kill_a_worker", "kill_a_job", "announce_a_time_limit", "cancel_all_jobs"),
    *("set_a_node_down", "kill_the_controller", "cut_a_record", "cut_the_board"),
)


class Real(Sweep):
    """A sweep of real runs; the command is the one that a person types."""

    def start(self, *, retry: tuple[str, ...] = (), **settings: Any) -> Outcome:
        left = tuple(run for run, state in self.states().items() if not state.is_finished)
        command = ["sweep", "real.yaml", "-e", "slurm", "--out", str(self.folder.root)]
        if run([*command, *OPTIONS]) != OK:
            raise SystemTroubleError("the command was refused")
        return Outcome(left, {})

    def curves(self) -> list[list[tuple[int, float]]]:
        records = [self.record(number) for number in range(len(self.lines))]
        return [[(s["step"], s["loss"]) for s in record.steps] for record in records]


@pytest.mark.slow
@pytest.mark.xdist_group("campaign-1")
def test_real_runs_broken_again_and_again_report_the_same_losses_bit_for_bit(
    here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real.yaml").write_text(REAL)
    near = SweepFolder(tmp_path / "near")
    local = ("--max-parallel", "2", "--out", str(near.root))
    assert run(["sweep", "real.yaml", "-e", "local", *local, *OPTIONS]) == 0
    undisturbed = Real(near, list(near.plan_lines()))
    dice = random.Random(0)
    deck, told = dice.sample(ON_REAL, len(ON_REAL)), []
    # How many faults fall within three runs depends on how fast the machine trains them.
    while len(told) < N_REAL_FAULTS:
        sweep = Real(SweepFolder(tmp_path / f"far-{len(told)}"), list(near.plan_lines()))
        scene = Scene(here, sweep, dice, monkeypatch, tmp_path)
        # Real runs import for seconds before they write.
        one_sweep(scene, deck, told, pause=6.0)
        end_complete(scene)
        assert table(sweep.folder) == table(undisturbed.folder), told
        assert sweep.losses() == undisturbed.losses(), told
        assert sweep.curves() == undisturbed.curves(), told
        here.clear()
    DONE.update(f"{kind}, real runs" for kind in told)


# --- the command, killed at every step ------------------------------------------------------------


def needy(root: Path, plan_line: Callable[..., dict[str, Any]]) -> Sweep:
    """Three runs of two kinds of need, one with a record that is moved aside first."""
    sweep = plan_sweep(root, plan_line, 3)
    sweep.lines[2]["resources"] = {"cpus": 2}
    sweep.folder.record("x").parent.mkdir(parents=True)
    sweep.folder.record(sweep.ids[0]).write_text("no record\n")
    return sweep


@pytest.mark.slow
def test_the_command_killed_at_any_step_loses_nothing_and_submits_nothing_twice(
    here: Cluster, make_sweep: Any, tmp_path: Path
) -> None:
    undisturbed = needy(tmp_path / "undisturbed", make_sweep.plan_line)
    assert start_in_a_process(undisturbed, tmp_path).wait() == 0
    steps = (tmp_path / "steps").read_text().splitlines()
    assert sum("sbatch" in step for step in steps) == 2
    assert any("superseded" in step for step in steps)
    sweeps = [needy(tmp_path / f"step-{k}", make_sweep.plan_line) for k in range(len(steps))]
    for few in batched(range(len(steps)), 4):
        places = [sweeps[k].folder.root.with_suffix(".made") for k in few]
        for place in places:
            place.mkdir()
        commands = [
            start_in_a_process(sweeps[k], place, kill_at=k + 1)
            for k, place in zip(few, places, strict=True)
        ]
        assert [command.wait() for command in commands] == [-9] * len(few)
    for sweep in sweeps:
        sweep.start()
    undisturbed.wait_for("done")
    wanted = table(undisturbed.folder)
    for step, sweep in zip(steps, sweeps, strict=True):
        wait_until(lambda s=sweep: set(s.words()) == {"done"}, shown=sweep.words)
        assert table(sweep.folder) == wanted, step
        assert sweep.attempts() == [1, 1, 1], step
        assert sweep.start().started == (), step
    DONE["kill the command at each of its steps"] += len(steps)
    here.clear()


# --- a record, cut at every byte ------------------------------------------------------------------


@pytest.mark.slow
def test_a_record_cut_at_any_byte_is_continued_to_the_same_table(
    make_sweep: Any, tmp_path: Path
) -> None:
    sweep = plan_sweep(tmp_path / "cut", make_sweep.plan_line, 1)
    sweep.run_inline()
    (spec,), path = sweep.runs(), sweep.folder.record(sweep.ids[0])
    whole, wanted = path.read_bytes(), table(sweep.folder)
    for at in range(len(whole)):
        path.write_bytes(whole[:at])
        todo = find_missing([spec], sweep.folder)
        # Without its line break the end is still an end.
        assert len(todo.start) == (at < len(whole) - 1)
        for name in todo.replace:
            move_aside(sweep.folder, name)
            shutil.rmtree(path.parent / "superseded")
        assert not todo.start or run_here(fake_argv(sweep.folder, spec.id)) == 0
        assert table(sweep.folder) == wanted, at
    DONE["cut a record at each of its bytes"] += len(whole)


@pytest.mark.slow
def test_the_campaign_is_reported() -> None:
    """Print the table for the docs; run with -s to see it."""
    if not DONE:
        pytest.skip("no fault was injected in this process")
    for kind, n in DONE.items():
        sys.stdout.write(f"| {kind.replace('_', ' ')} | {n} |\n")
    sys.stdout.write(f"{sum(DONE.values())} faults of {len(DONE)} kinds\n")
