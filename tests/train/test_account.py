"""A run's costs: what they went into, that they add up over attempts, and that none is invented."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deaths import Death

from scalekit import cli
from scalekit.results.record import RunRecord, read_record
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train import account as account_module
from scalekit.train import energy
from scalekit.train import job as job_module
from scalekit.train.account import Account, Pauses, process_seconds, spends
from scalekit.train.attempt import _devices_before
from scalekit.train.device import Device
from scalekit.train.loop import Learner
from scalekit.train.run import train_run
from scalekit.train.stacked_run import train_stack
from scalekit.train.stop import StopRequest
from scalekit.train.team import Team

pytestmark = pytest.mark.usefixtures("quick_attempts")

CPU = Device(torch.device("cpu"), "float32")
LOST = ("startup_s", "eval_s", "checkpoint_s")


class Meter:
    """A meter that draws ten joules from one reading to the next."""

    by = "RAPL"

    def __init__(self) -> None:
        self.drawn = 0.0

    def joules(self) -> float:
        self.drawn += 10.0
        return self.drawn


class Several(Team):
    """A team of several processes that are all as this one, and at its end answer no more."""

    is_gone = False

    def __init__(self, size: int) -> None:
        super().__init__(size=size)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        assert not self.is_gone
        return values.expand(self.size, *values.shape)


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_module, "open_team_meter", lambda *_, **__: Meter())


def lines_of(folder: SweepFolder, spec: RunSpec, t: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in folder.record(spec.id).read_text().splitlines()]
    return [line for line in lines if line["t"] == t]


def end_of(folder: SweepFolder, spec: RunSpec) -> dict[str, Any]:
    end = read_record(folder.record(spec.id)).end
    assert end is not None
    return dict(end)


def stop_after(step: int) -> tuple[StopRequest, Callable[[str], None]]:
    """Return what asks a run to stop once it has reported a step."""
    stop = StopRequest()

    def report(line: str) -> None:
        if line.startswith(f"step {step}/"):
            stop.signal = 15

    return stop, report


def test_processes_that_share_a_gpu_have_a_part_of_it(metered, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    gpu = Device(torch.device("cuda"), "float32")
    packed = Account(gpu, None, since=0.0, packed=4, replicas=2)
    assert (packed.process_share, packed.device_share) == (0.25, 0.125)
    several = Account(gpu, None, since=0.0, team=Several(2))
    assert (several.process_share, several.device_share) == (2.0, 2.0)
    on_cores = Account(CPU, None, since=0.0, packed=4)
    assert on_cores.device_share == 1.0, "each has cores of its own"


@pytest.mark.parametrize("together", [False, True], ids=["alone", "as a stack"])
def test_a_gpu_is_taken_before_its_counters_are_asked(
    planned, folder: SweepFolder, monkeypatch, *, together: bool
) -> None:
    """Torch refuses to reset the peak of memory on a device that has not been started."""
    order: list[str] = []

    def meter(device: Device, team: Team, **shares: int) -> None:
        order.append("asked")

    monkeypatch.setattr(Device, "take", lambda device: order.append("taken"))
    monkeypatch.setattr(account_module, "open_team_meter", meter)
    specs = [planned("0" * 9 + str(seed), train={"seed": seed}) for seed in range(2)]
    if together:
        train_stack(specs, folder, device="cpu")
        assert order == ["taken", "asked", "asked"]
    else:
        train_run(specs[0], folder, device="cpu")
        assert order == ["taken", "asked"]


def test_the_parts_of_a_run_fill_its_time(spec: RunSpec, folder: SweepFolder, monkeypatch) -> None:
    for place in ("scalekit.train.job.evaluate_corpus", "scalekit.train.checkpoint.write_whole"):
        module, _, name = place.rpartition(".")
        slow_down(monkeypatch, module, name, 0.02)
    assert train_run(spec, folder, device="cpu", startup_s=3.0) == "done"
    end = end_of(folder, spec)
    assert end["startup_s"] > 3.0
    assert end["device_s"] == pytest.approx(end["wall_s"] + end["startup_s"], abs=1e-9)
    # Two evaluations and three checkpoints of 0.02 s, as they are planned.
    assert end["eval_s"] >= 0.04
    assert end["checkpoint_s"] >= 0.06
    assert end["eval_s"] + end["checkpoint_s"] < end["wall_s"]
    (attempt,) = lines_of(folder, spec, "attempt")
    assert attempt["startup_s"] == pytest.approx(end["startup_s"])


def slow_down(monkeypatch: pytest.MonkeyPatch, module: str, name: str, seconds: float) -> None:
    real = getattr(__import__(module, fromlist=[name]), name)

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return real(*args, **options)

    monkeypatch.setattr(f"{module}.{name}", slow)


def test_waiting_for_the_other_processes_is_a_part_of_the_start(
    spec: RunSpec, folder: SweepFolder, command: list[str], monkeypatch
) -> None:
    """Nodes start unequally fast, and those that came first are held meanwhile."""
    slow_down(monkeypatch, "scalekit.train.meeting", "join", 0.5)
    assert cli.run(command) == 0
    assert end_of(folder, spec)["startup_s"] > 0.5


def test_speed_is_of_training_alone(spec: RunSpec, folder: SweepFolder, monkeypatch) -> None:
    slow_down(monkeypatch, "scalekit.train.job", "evaluate_corpus", 0.3)
    assert train_run(spec, folder, device="cpu") == "done"
    end = end_of(folder, spec)
    tokens = 6 * 128  # of seven steps: the first also warms up
    trained = end["wall_s"] - end["eval_s"] - end["checkpoint_s"]
    # The clock is read for the speed first and for `wall_s` after it.
    assert tokens / end["tokens_per_second"] <= trained <= end["wall_s"] - 0.6


def test_steps_that_a_gpu_still_computes_are_not_the_evaluations_time(
    planned, folder: SweepFolder, monkeypatch
) -> None:
    """A GPU is given steps faster than it takes them, and none but a step line waits for it."""
    queued = [0]
    learn, evaluate = Learner.learn, job_module.evaluate_corpus

    def enqueue(self: Learner, *batch: Any) -> Any:
        queued[0] += 1
        return learn(self, *batch)

    def drain(self: Device) -> None:
        queued[0] = 0

    def measure(*args: Any) -> Any:
        assert queued == [0]
        return evaluate(*args)

    monkeypatch.setattr(Learner, "learn", enqueue)
    monkeypatch.setattr(Device, "synchronise", drain)
    monkeypatch.setattr(job_module, "evaluate_corpus", measure)
    spec = planned(train={"steps": 7}, log={"every": 4, "evals": 3, "checkpoint_steps": None})
    assert train_run(spec, folder, device="cpu") == "done"


def test_what_the_first_step_compiles_is_no_speed(
    spec: RunSpec, folder: SweepFolder, monkeypatch
) -> None:
    """It takes a minute where the others take milliseconds, and MFU was that of the two."""
    real, calls = Learner.learn, []

    def compile_first(learner: Learner, *batch: Any) -> Any:
        calls.append(batch)
        time.sleep(2.0 if len(calls) == 1 else 0.01)
        return real(learner, *batch)

    monkeypatch.setattr(Learner, "learn", compile_first)
    assert train_run(spec, folder, device="cpu") == "done"
    end = end_of(folder, spec)
    assert end["wall_s"] > 2.0
    assert 6 * 128 / end["tokens_per_second"] < end["wall_s"] - 2.0


@pytest.mark.usefixtures("metered")
def test_no_replica_trains_while_another_is_measured(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(account_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    pauses = Pauses()
    first, second = (Account(CPU, None, since=0.0, replicas=2, pauses=pauses) for _ in range(2))
    first.begin()
    second.begin()
    now[0] += 10.0
    first.lose("eval_s", 3.0)
    assert (first.training_seconds(), second.training_seconds()) == (7.0, 7.0)
    assert (first.totals()["eval_s"], second.totals()["eval_s"]) == (3.0, 0.0)


def test_mfu_is_the_share_of_the_devices_peak_by_the_plans_own_flops(
    spec: RunSpec, folder: SweepFolder, monkeypatch
) -> None:
    monkeypatch.setattr(Device, "peak_flops", property(lambda self: 1e9))
    assert train_run(spec, folder, device="cpu") == "done"
    end = end_of(folder, spec)
    assert end["flops_kind"] == spec.plan["flops_kind"] == "exact"
    flops = end["tokens_per_second"] * spec.plan["flops_per_token"]["exact"]
    assert end["mfu"] == pytest.approx(flops / 1e9, rel=1e-12)


def test_memory_is_at_least_what_the_process_holds(spec: RunSpec, folder: SweepFolder) -> None:
    assert train_run(spec, folder, device="cpu") == "done"
    assert 50e6 < end_of(folder, spec)["peak_memory_bytes"] < 1e12  # torch alone takes 50 MB


def test_costs_add_up_over_attempts_that_were_stopped(spec: RunSpec, folder: SweepFolder) -> None:
    # Step 6 reports and saves, after the evaluation of step 4.
    stop, report = stop_after(6)
    assert train_run(spec, folder, device="cpu", stop=stop, report=report, startup_s=5.0) == (
        "stopped"
    )
    first = lines_of(folder, spec, "spent")[-1]
    assert read_state(folder.record(spec.id)).step == first["step"]
    assert train_run(spec, folder, device="cpu", startup_s=7.0) == "done"
    end = end_of(folder, spec)
    assert end["startup_s"] > 12.0
    for name in (*LOST, "wall_s", "peak_memory_bytes"):
        assert end[name] >= first[name] > 0, name
    attempts = lines_of(folder, spec, "attempt")
    assert sum(a["startup_s"] for a in attempts) == pytest.approx(end["startup_s"])


def test_the_checkpoint_of_a_stop_is_paid_for_too(
    planned, folder: SweepFolder, monkeypatch
) -> None:
    """Its line was written before it, so each stop took what its checkpoint cost off the books."""
    spec = planned(log={"every": 3, "evals": 2})
    slow_down(monkeypatch, "scalekit.train.checkpoint", "write_whole", 0.3)
    stop, report = stop_after(6)
    assert train_run(spec, folder, device="cpu", stop=stop, report=report) == "stopped"
    assert train_run(spec, folder, device="cpu") == "done"
    end = end_of(folder, spec)
    assert end["wall_s"] > end["checkpoint_s"] > 0.3
    assert end["device_s"] == pytest.approx(end["wall_s"] + end["startup_s"], rel=1e-9)


def test_the_time_of_steps_that_were_lost_is_known_however_often_a_run_is_killed(
    spec: RunSpec, folder: SweepFolder, monkeypatch
) -> None:
    def die(line: str) -> None:
        if line.startswith("step 6/"):
            raise Death

    slow_down(monkeypatch, "scalekit.train.loop", "_write_step", 0.3)
    with pytest.raises(Death):
        train_run(spec, folder, device="cpu", report=die)
    # Back at step 4: this attempt's line takes the line of step 6 off the curve, and that is all.
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", lambda *_: die("step 6/"))
        with pytest.raises(Death):
            train_run(spec, folder, device="cpu")
    assert train_run(spec, folder, device="cpu") == "done"
    assert [a["resumed_from"] for a in lines_of(folder, spec, "attempt")] == [0, 4, 4]
    # Lines at steps 3 and 6, and after that at 6 and 7.
    assert end_of(folder, spec)["wall_s"] > 1.2


@pytest.mark.usefixtures("metered")
def test_energy_adds_up_over_attempts(spec: RunSpec, folder: SweepFolder) -> None:
    stop, report = stop_after(3)
    assert train_run(spec, folder, device="cpu", stop=stop, report=report) == "stopped"
    first = lines_of(folder, spec, "spent")[-1]["energy_j"]
    assert first > 0
    assert train_run(spec, folder, device="cpu") == "done"
    n_read = len(lines_of(folder, spec, "spent")[len(lines_of(folder, spec, "attempt")) :]) or 1
    assert end_of(folder, spec)["energy_j"] >= first + 10.0 * n_read
    assert {a["energy_by"] for a in lines_of(folder, spec, "attempt")} == {"RAPL"}


def test_a_counter_that_is_soon_full_is_read_with_every_step_line(
    spec: RunSpec, folder: SweepFolder, monkeypatch
) -> None:
    """A package may begin anew every minute, and checkpoints be hours apart."""
    meter = Meter()
    monkeypatch.setattr(account_module, "open_team_meter", lambda *_, **__: meter)
    assert train_run(spec, folder, device="cpu") == "done"
    n_steps, n_spent = (len(lines_of(folder, spec, t)) for t in ("step", "spent"))
    assert n_steps > 1
    assert meter.drawn / 10 == n_steps + n_spent + 1  # and at the end


def test_a_process_that_failed_asks_the_others_for_no_energy(monkeypatch) -> None:
    monkeypatch.setattr(energy, "open_meter", lambda *_, **__: Meter())
    team = Several(3)
    account = Account(CPU, None, since=0.0, team=team)
    assert account.energy_by() == "RAPL"
    assert account.totals()["energy_j"] == 3 * 10.0
    team.is_gone = True  # whoever asks them now would wait for ever
    assert account.totals(has_failed=True)["energy_j"] is None
    alone = Account(CPU, None, since=0.0)
    assert alone.totals(has_failed=True)["energy_j"] == 10.0


def test_energy_of_which_an_attempt_is_not_known_is_unknown(
    spec: RunSpec, folder: SweepFolder, monkeypatch
) -> None:
    stop, report = stop_after(3)
    monkeypatch.setattr(account_module, "open_team_meter", lambda *_, **__: None)
    assert train_run(spec, folder, device="cpu", stop=stop, report=report) == "stopped"
    monkeypatch.setattr(account_module, "open_team_meter", lambda *_, **__: Meter())
    assert train_run(spec, folder, device="cpu") == "done"
    assert end_of(folder, spec)["energy_j"] is None


@pytest.mark.usefixtures("metered")
def test_a_failed_run_says_what_it_cost(spec: RunSpec, folder: SweepFolder, monkeypatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("scalekit.train.job.evaluate_corpus", fail)
    assert train_run(spec, folder, device="cpu") == "failed"
    end = end_of(folder, spec)
    assert end["energy_j"] > 0
    assert end["device_s"] > end["wall_s"] > 0


def test_the_start_of_an_attempt_that_failed_in_it_counts(
    spec: RunSpec, folder: SweepFolder, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("scalekit.train.attempt.build_seeded", lambda *_: 1 / 0)
        assert train_run(spec, folder, device="cpu", startup_s=30.0) == "failed"
    assert train_run(spec, folder, device="cpu", startup_s=1.0) == "done"
    end = end_of(folder, spec)
    assert end["startup_s"] > 31.0
    assert end["device_s"] == pytest.approx(end["wall_s"] + end["startup_s"], rel=1e-9)


def test_attempts_that_failed_before_they_had_a_line_are_counted(
    spec: RunSpec, folder: SweepFolder, monkeypatch
) -> None:
    """Each was called the first, and so was the one that came through."""
    counted = []
    with monkeypatch.context() as patch:
        patch.setattr("scalekit.train.attempt.build_seeded", lambda *_: 1 / 0)
        for _ in range(2):
            assert train_run(spec, folder, device="cpu") == "failed"
            counted.append(end_of(folder, spec)["attempts"])
    assert train_run(spec, folder, device="cpu") == "done"
    assert [*counted, end_of(folder, spec)["attempts"]] == [1, 2, 3]
    (attempt,) = read_record(folder.record(spec.id)).attempts
    assert attempt["n"] == 3


def test_devices_are_counted_whose_number_no_step_line_has_told_yet(
    spec: RunSpec, folder: SweepFolder
) -> None:
    """A hundred seconds on one device and ten on four were 110 of a device, not 140."""
    stop, report = stop_after(3)
    assert train_run(spec, folder, device="cpu", stop=stop, report=report) == "stopped"
    record = read_record(folder.record(spec.id))
    spent = record.spent
    assert spent["device_s"] == spent["wall_s"] > record.steps[-1]["wall_s"]
    assert record.attempts[0]["device_s"] == 0.0
    one = {"wall_s": 100.0, "device_s": 100.0}
    attempt, step = {**record.attempts[0], **one}, {**record.steps[-1], **one}
    changed = replace(record, attempts=(attempt,), steps=(step,))
    account = Account(CPU, None, since=0.0)
    for line in ({"wall_s": 110.0, "device_s": 140.0}, {"wall_s": 140.0, "device_s": None}):
        before = replace(changed, spent={**spent, **line})
        assert _devices_before(before, account) == 140.0


def test_each_start_held_as_many_devices_as_it_started_processes(monkeypatch) -> None:
    """Resumed with fewer, a run of three and then two was billed as if each had been alone."""
    monkeypatch.setattr(
        account_module, "time", SimpleNamespace(perf_counter=lambda: 7.0, monotonic=lambda: 7.0)
    )
    attempts = ({"startup_s": 5.0, "processes": 3}, {"startup_s": 4.0, "processes": 2})
    before = RunRecord({}, attempts, (), (), None, 0, spent={"startup_s": 10.0})
    last = Account(CPU, before, since=6.0)
    # One second is of an attempt that has no line, and one of this.
    assert last.startup_device_seconds() == 5.0 * 3 + 4.0 * 2 + 1.0 + 1.0
    again = Account(CPU, before, since=6.0, team=Several(4))
    assert again.startup_device_seconds() == pytest.approx(5.0 * 3 + 4.0 * 2 + 4.0 + 4.0, rel=1e-12)


def test_a_record_from_before_accounting_is_continued(spec: RunSpec, folder: SweepFolder) -> None:
    stop, report = stop_after(3)
    assert train_run(spec, folder, device="cpu", stop=stop, report=report) == "stopped"
    path = folder.record(spec.id)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    old = [
        {k: v for k, v in line.items() if k not in ("startup_s", "energy_by")}
        for line in lines
        if line["t"] != "spent"
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert train_run(spec, folder, device="cpu") == "done"
    end = end_of(folder, spec)
    assert end["energy_j"] is None
    assert end["startup_s"] > 0


@pytest.mark.parametrize(("resources", "packed"), [({}, 1), ({"pack": 4}, 4), ({"gpus": 1}, 1)])
def test_a_packed_run_knows_with_how_many_it_shares(
    planned, tmp_path, monkeypatch, resources: dict[str, int], packed: int
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        account_module, "open_team_meter", lambda *_, packed, **__: seen.append(packed)
    )
    spec = planned()
    spec = RunSpec(spec.id, spec.config, spec.plan, resources)
    assert train_run(spec, SweepFolder(tmp_path), device="cpu") == "done"
    assert seen == [packed]


def test_what_a_function_took_is_counted_also_when_it_fails() -> None:
    class Job:
        account = Account(CPU, None, since=time.perf_counter())

    @spends("eval_s")
    def evaluate(job: Job, seconds: float) -> float:
        time.sleep(seconds)
        return 1.0 / (seconds - 0.02)

    job = Job()
    assert evaluate(job, 0.01) == -100.0
    with pytest.raises(ZeroDivisionError):
        evaluate(job, 0.02)
    totals = job.account.totals()
    assert totals["eval_s"] >= 0.03
    assert totals["checkpoint_s"] == 0.0


def test_a_process_is_as_old_as_its_clock_says() -> None:
    first = process_seconds()
    assert first is not None
    assert first > 0
    time.sleep(0.05)
    later = process_seconds()
    assert later is not None
    assert later - first >= 0.04  # ticks of a hundredth of a second
