"""One run in several processes: the numbers of one, whoever dies, however many go on.

Real processes by `scalekit train`, as a job calls it; they speak by Gloo on loopback.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from curves import curve, write_plan

from scalekit.errors import SystemTroubleError
from scalekit.executors._place import BY_SRUN, Place
from scalekit.results.record import RunRecord, read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.meeting import join
from scalekit.train.run import train_run

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
"""Seconds after which processes that should have ended are a failure, however busy the machine."""

SAME = 1e-6
"""Sums over processes are taken in another order than within one: float32 rounds at 1.2e-7, and a
dozen steps let a difference grow by less than that much again (measured: below 4e-7)."""


@dataclass
class Starter:
    """Starts runs in processes of their own; none of them outlives the test."""

    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, folder: SweepFolder, run: str, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "scalekit", "train", str(folder.root), run]
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--threads", "1", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, folder: SweepFolder, run: str, *words: str) -> tuple[int, str, str]:
        """Run to the end and return exit code and both outputs."""
        process = self(folder, run, *words)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err


@pytest.fixture
def start() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    for process in starter.started:
        process.kill()
        process.communicate()


@pytest.fixture
def spread(planned: Callable[..., RunSpec], tmp_path: Path) -> Callable[..., SweepFolder]:
    """Plan a run and say what it needs; return the sweep's folder."""

    def make(name: str, needs: dict[str, Any], **parts: Any) -> SweepFolder:
        spec = planned(**parts)
        return write_plan(tmp_path / name, RunSpec(spec.id, spec.config, spec.plan, needs))

    return make


RUN = "0123456789"


def record_of(folder: SweepFolder) -> RunRecord:
    return read_record(folder.record(RUN))


def losses(folder: SweepFolder) -> list[float]:
    """Every number that learning decides, in order."""
    record = record_of(folder)
    found = [line[key] for line in record.steps for key in ("loss", "grad_norm")]
    return found + [line[key] for line in record.evals for key in ("val_loss", "val_sem")]


def done(start: Starter, folder: SweepFolder, *words: str) -> SweepFolder:
    code, out, err = start.finish(folder, RUN, *words)
    assert (code, out) == (0, f"{RUN} done\n"), err
    assert "Warning" not in err
    assert not folder.checkpoints(RUN).exists()
    return folder


BY_AUTOGRAD = {"SCALEKIT_KERNELS": "off"}
# What a run asks for, and its surroundings. 8 rows a step: three processes have 3, 3 and 2.
WAYS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "kernels": ({"processes": 2}, {}),
    "kernels, uneven": ({"processes": 3}, {}),
    "replicas, uneven, parts": ({"processes": 3, "micro_batch_tokens": 16}, BY_AUTOGRAD),
    "replicas, recomputed": ({"processes": 2, "recompute": "blocks"}, BY_AUTOGRAD),
    "sharded, uneven, parts": (
        {"processes": 3, "shard": True, "micro_batch_tokens": 32, "recompute": "mlps"},
        {},
    ),
    "one process, parts": ({"micro_batch_tokens": 48, "recompute": "blocks"}, BY_AUTOGRAD),
}


LORA = {
    "kernels": ({"processes": 2}, {}),
    "parts by autograd, uneven": ({"processes": 3, "micro_batch_tokens": 16}, BY_AUTOGRAD),
}


@pytest.mark.parametrize(
    "way",
    [name if name == "kernels" else pytest.param(name, marks=pytest.mark.slow) for name in WAYS],
)
def test_a_run_has_the_same_losses_however_it_is_spread(spread, start: Starter, way: str) -> None:
    needs, start.environment = WAYS[way]
    alone = done(start, spread("alone", {}))
    together = done(start, spread("together", needs))
    assert losses(together) == pytest.approx(losses(alone), rel=SAME)
    assert record_of(together).header["id"] == record_of(alone).header["id"]
    (attempt,) = record_of(together).attempts
    n = needs.get("processes", 1)
    assert (attempt["processes"], attempt["nodes"], len(attempt["hosts"])) == (n, 1, 1)
    assert attempt["shard"] == needs.get("shard", False)
    end = record_of(together).end
    assert end is not None
    # A device is held from the start of the process on.
    assert end["device_s"] == pytest.approx(n * (end["wall_s"] + end["startup_s"]), rel=1e-12)
    if start.environment or needs.get("shard"):
        assert attempt["computed_by"].startswith("torch")
        assert attempt["recompute"] == needs.get("recompute", "none")
        rows = -(-8 // n)
        assert attempt["micro_batch_tokens"] == needs.get("micro_batch_tokens", 16 * rows)
    else:
        assert attempt["computed_by"] == "kernels"
        assert attempt["micro_batch_tokens"] is None


@pytest.mark.slow
@pytest.mark.parametrize("way", LORA)
def test_adapters_learn_alike_however_their_run_is_spread(spread, start: Starter, way: str) -> None:
    needs, start.environment = LORA[way]
    parent = spread("parent", {}, log={"keep_weights": True})
    done(start, parent)
    begin = {"folder": str(parent.root), "run": RUN, "step": 12, "method": "lora", "rank": 2}
    alone = done(start, spread("alone", {}, start=begin))
    together = done(start, spread("together", needs, start=begin))
    assert losses(together) == pytest.approx(losses(alone), rel=SAME)
    assert min(line["grad_norm"] for line in record_of(together).steps) > 0


def test_more_processes_than_rows_a_step_are_refused_by_name(spread, start: Starter) -> None:
    folder = spread("sweep", {"processes": 3}, train={"batch_tokens": 32})
    code, out, err = start.finish(folder, RUN)
    assert code == 3, err
    assert out == ""
    said = "resources.processes: 3, but a step has 2 rows of 16 tokens, so some would have no data"
    assert err.count(said) == 1
    assert "Traceback" not in err
    assert not folder.record(RUN).exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_refused_by_each_process_in_words(
    spread, start: Starter
) -> None:
    code, _, err = start.finish(spread("sweep", {"processes": 2}), RUN, "--device", "cuda")
    assert code == 3, err
    assert "--device 'cuda': torch finds no GPU here" in err
    assert "Traceback" not in err


MEET = """
import os, sys
import torch, torch.distributed as dist
from scalekit.executors._place import find_place
from scalekit.executors._team import run_team
from scalekit.train.meeting import join

place = find_place(os.environ)
if place is None:
    sys.exit(run_team([sys.executable, *sys.argv], 2, 1))
team = join(place, "cpu")
"""


def end_of(script: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Let two processes meet and do what the script says from there on."""
    path = folder / "ends.py"
    path.write_text(MEET + script, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(path), *words],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


ENDS_WHILE_THEY_SPEAK = """
for _ in range(int(sys.argv[1 + place.rank])):
    dist.all_gather([torch.empty(1), torch.empty(1)], torch.zeros(1), async_op=True)
sys.exit(3)
"""


@pytest.mark.parametrize("exchanges", [("300", "300"), ("300", "10"), ("10", "300")])
def test_a_process_ends_with_its_own_code_whatever_torch_still_exchanges(
    tmp_path: Path, exchanges: tuple[str, str]
) -> None:
    """Gloo's threads dropped tensors while Python went down: an abort, and a signal for a code."""
    ended = end_of(ENDS_WHILE_THEY_SPEAK, tmp_path, *exchanges)
    assert ended.returncode == 3, ended.stderr


ENDS_WITH_A_GROUP_THAT_IS_HELD = """
torch.held = dist.distributed_c10d._get_default_group()
sys.setswitchinterval(5.0)  # as it happens now and then: nobody else gets to run unless we wait
for _ in range(30):
    team.gather(torch.zeros(1))
team.leave()
sys.exit(3)
"""


def test_a_process_ends_with_its_own_code_whoever_holds_on_to_what_it_spoke_through(
    tmp_path: Path,
) -> None:
    """After a sharded model torch's caches do: runs that were done ended by a signal."""
    for _ in range(2):  # half of them did
        ended = end_of(ENDS_WITH_A_GROUP_THAT_IS_HELD, tmp_path)
        assert ended.returncode == 3, ended.stderr


# --- stopped and killed ----------------------------------------------------------------------

SLOW_ENOUGH = {
    "model": {"d_model": 64, "d_ff": 256},
    "train": {"steps": 48},
    "log": {"every": 1, "evals": 4, "checkpoint_steps": 7},
}
"""So that a process is met while it learns, and a checkpoint falls between two lines."""


def lines_of(folder: SweepFolder) -> int:
    path = folder.record(RUN)
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(process: subprocess.Popen[str], folder: SweepFolder, n: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and lines_of(folder) < n:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def members_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher started, by rank."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return sorted(int(pid) for pid in path.read_text().split())


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def stop(start: Starter, folder: SweepFolder, *words: str) -> int:
    """Ask a run to stop half way and return the step that it saved."""
    process = start(folder, RUN, *words)
    wait_for_lines(process, folder, lines_of(folder) + 12)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (143, f"{RUN} stopped\n"), err
    return record_of(folder).steps[-1]["step"]


def test_told_while_its_processes_import_a_run_ends_as_one_of_one_process_would(
    spread, start: Starter, tmp_path: Path
) -> None:
    site = "import os, time\nif 'RANK' in os.environ:\n    time.sleep(60)\n"
    (tmp_path / "sitecustomize.py").write_text(site)
    start.environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    folder = spread("early", {"processes": 2})
    process = start(folder, RUN)
    deadline = time.monotonic() + PATIENCE
    while len(members_of(process)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGTERM, err
    assert not folder.record(RUN).exists()


@pytest.mark.slow
@pytest.mark.parametrize("needs", [{}, {"shard": True}], ids=["replicas", "shards"])
def test_a_run_goes_on_with_another_number_of_processes(spread, start: Starter, needs) -> None:
    alone = done(start, spread("alone", {}, **SLOW_ENOUGH))
    folder = spread("changing", needs, **SLOW_ENOUGH)
    saved = [stop(start, folder, "--processes", n) for n in ("2", "3")]
    done(start, folder, "--processes", "1")
    attempts = record_of(folder).attempts
    assert [attempt["processes"] for attempt in attempts] == [2, 3, 1]
    assert [attempt["shard"] for attempt in attempts] == [bool(needs)] * 2 + [False]
    # Nothing is computed twice: what was saved at the signal is where the next one begins.
    assert [attempt["resumed_from"] for attempt in attempts] == [0, *saved]
    assert losses(folder) == pytest.approx(losses(alone), rel=48 / 12 * SAME)


@pytest.mark.slow
def test_a_run_may_be_cut_into_parts_half_way(spread, start: Starter) -> None:
    alone = done(start, spread("alone", {}, **SLOW_ENOUGH))
    folder = spread("changing", {"processes": 2}, **SLOW_ENOUGH)
    saved = stop(start, folder)
    done(start, spread("changing", {"processes": 2, "shard": True}, **SLOW_ENOUGH))
    first, second = record_of(folder).attempts
    assert (first["shard"], second["shard"]) == (False, True)
    assert second["resumed_from"] == saved
    assert losses(folder) == pytest.approx(losses(alone), rel=48 / 12 * SAME)


COMPILED_WITHOUT_CODE = """
import os
if 'RANK' in os.environ:
    from scalekit.train.regional import compile_layers
    compile_layers.__defaults__ = ("aot_eager",)
"""
"""The compiler's graphs, forward and backward, as torch runs them: making code takes a minute."""


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["replicas", "shards"])
def test_a_spread_run_may_be_compiled_from_any_checkpoint_on(
    spread, planned, start: Starter, tmp_path: Path, *, shard: bool
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(COMPILED_WITHOUT_CODE)
    start.environment = {
        **BY_AUTOGRAD,
        "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}",
    }
    needs = {"processes": 2, "shard": shard}
    ways = [needs, {**needs, "compile": "blocks"}]
    alone = SweepFolder(tmp_path / "alone")
    train_run(planned(**SLOW_ENOUGH), alone, device="cpu")
    first, second = ways if shard else reversed(ways)
    saved = stop(start, spread("changing", first, **SLOW_ENOUGH))
    folder = done(start, spread("changing", second, **SLOW_ENOUGH))
    assert [line["compile"] for line in record_of(folder).attempts] == [
        way.get("compile", "none") for way in (first, second)
    ]
    assert record_of(folder).attempts[1]["resumed_from"] == saved
    assert losses(folder) == pytest.approx(losses(alone), rel=48 / 12 * SAME)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["replicas", "shards"])
def test_a_run_killed_at_random_gives_the_record_of_one_that_was_not(
    spread, start: Starter, *, shard: bool
) -> None:
    needs = {"processes": 2, "shard": shard}
    expected = curve(done(start, spread("whole", needs, **SLOW_ENOUGH)).record(RUN))
    folder = spread("killed", needs, **SLOW_ENOUGH)
    draw = random.Random(f"kill {shard}")
    victims = draw.sample(["launcher", "first", "second"], 3)
    for victim in victims:
        process = start(folder, RUN)
        wait_for_lines(process, folder, lines_of(folder) + draw.randint(10, 18))
        time.sleep(draw.uniform(0.0, 0.02))
        members = members_of(process)
        pids = {"launcher": process.pid, "first": members[0], "second": members[1]}
        os.kill(pids[victim], signal.SIGKILL)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == (-signal.SIGKILL if victim == "launcher" else 7), err
        wait_until_gone(members)
        assert record_of(folder).end is None, "a process that was killed is no failed run"
    done(start, folder)
    assert curve(folder.record(RUN)) == expected
    resumed = [attempt["resumed_from"] for attempt in record_of(folder).attempts]
    assert len(resumed) == 1 + len(victims)
    assert max(resumed) > 0


@pytest.mark.slow
def test_three_replicas_go_on_to_the_bit(spread, start: Starter) -> None:
    """Three numbers add up to others in another order, which two do not."""
    start.environment = BY_AUTOGRAD
    needs, keeping = {"processes": 3}, {"train": SLOW_ENOUGH["train"], "log": {"every": 1}}
    expected = curve(done(start, spread("whole", needs, **keeping)).record(RUN))
    folder = spread("stopped", needs, **keeping)
    assert stop(start, folder) > 0
    done(start, folder)
    assert curve(folder.record(RUN)) == expected


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30.0
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "processes outlive their launcher"
        time.sleep(0.02)


# --- trouble ---------------------------------------------------------------------------------

FAILS_IN_THE_SECOND = """
import os, runpy, sys
from scalekit.train.opening import KnownRows
plain = KnownRows.take
def take(self, indices):
    if os.environ["RANK"] == "1" and os.environ.get("FAULT"):
        from scalekit.errors import InputError
        raise {"bug": ValueError, "input": InputError}[os.environ["FAULT"]]("planned: a fault")
    return plain(self, indices)
KnownRows.take = take
"""


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "code"), [("bug", 4), ("input", 3)])
def test_what_went_wrong_in_another_process_stands_in_the_record(
    *, spread, start: Starter, tmp_path: Path, fault: str, code: int
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os\nif 'RANK' in os.environ:\n    "
        + "\n    ".join(FAILS_IN_THE_SECOND.strip().splitlines())
        + "\n"
    )
    start.environment = {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}", "FAULT": fault}
    folder = spread("sweep", {"processes": 2})
    found, _, err = start.finish(folder, RUN)
    assert found == code, err
    end = record_of(folder).end
    assert end is not None
    assert end["status"] == "failed"
    assert "planned: a fault" in end["error"]
    if fault == "bug":
        assert "process 1 of 2" in end["error"]
        assert "ValueError" in end["error"]
    else:
        assert err.count("planned: a fault") == 1


@pytest.mark.slow
def test_a_damaged_part_costs_steps_and_changes_nothing(spread, start: Starter) -> None:
    needs = {"processes": 2, "shard": True}
    expected = curve(done(start, spread("whole", needs, **SLOW_ENOUGH)).record(RUN))
    folder = spread("damaged", needs, **SLOW_ENOUGH)
    stop(start, folder)
    older, newest = sorted(folder.checkpoints(RUN).iterdir())
    part = newest / "__1_0.distcp"
    raw = bytearray(part.read_bytes())
    raw[len(raw) // 2] ^= 1
    part.write_bytes(raw)
    done(start, folder)
    assert record_of(folder).attempts[-1]["resumed_from"] == int(older.name.partition("-")[2])
    assert curve(folder.record(RUN)) == expected


@pytest.mark.parametrize(
    ("variables", "todo"),
    [
        ({}, "set MASTER_PORT to a free one"),
        ({"TORCHELASTIC_RUN_ID": "1"}, "give torchrun another --master-port"),
        ({BY_SRUN: "1"}, "run the same command again, it takes another"),
    ],
)
def test_a_port_that_is_taken_is_told_with_what_whoever_chose_it_can_do(
    variables: dict[str, str], todo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemTroubleError, match=f"port {port}, .* is taken, .*; {todo}"):
            join(Place(0, 2, 0, 2, "127.0.0.1", port), "cpu")


DRAWS = """
from scalekit.train import energy

class Meter:
    by, drawn = "RAPL", 0.0
    def joules(self):
        self.drawn += 10.0
        return self.drawn

energy.open_meter = lambda *_, **__: Meter()
"""


def test_several_processes_draw_what_each_of_them_draws(spread, start: Starter, tmp_path) -> None:
    """Each reads its counter as often as one alone does."""
    (tmp_path / "sitecustomize.py").write_text(DRAWS)
    start.environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    drawn = []
    for n in (1, 2):
        folder = spread(f"by {n}", {"processes": n})
        assert start.finish(folder, RUN)[0] == 0
        record = record_of(folder)
        assert [attempt["energy_by"] for attempt in record.attempts] == ["RAPL"]
        assert record.end is not None
        drawn.append(record.end["energy_j"])
    assert drawn[1] == 2 * drawn[0] > 0
