"""The local pool: how many at once, in which order, on which GPUs; and processes as handles."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scalekit import registry
from scalekit.errors import InputError, SystemTroubleError
from scalekit.executors._process import process_handle, process_state, stop_process
from scalekit.executors._progress import Count, Progress
from scalekit.executors.base import STOPPED, Handle, Job, Settings
from scalekit.executors.inline import Inline, run_here
from scalekit.executors.local import Local, visible_gpus

PRINT_PLACE = """
import json, os, sys, time
from pathlib import Path
began = time.time()
time.sleep(float(sys.argv[2]))
names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
value = {"began": began, "ended": time.time(), "rest": sys.argv[3:]}
Path(sys.argv[1]).write_text(json.dumps(value | {name: os.environ.get(name) for name in names}))
print("hello")
sys.exit(int(sys.argv[1][-1] == "x"))
"""


class Notes:
    """A watch that remembers."""

    def __init__(self, unwanted: Sequence[str] = ()) -> None:
        self.handles: dict[str, Handle] = {}
        self.codes: dict[str, int] = {}
        self.unwanted = unwanted

    def is_wanted(self, job: Job) -> bool:
        return job.run not in self.unwanted

    def started(self, jobs: Sequence[Job], handle: Handle) -> None:
        self.handles |= {job.run: handle for job in jobs}

    def ended(self, job: Job, code: int) -> None:
        self.codes[job.run] = code

    def tick(self) -> None:
        pass


@pytest.fixture
def job(tmp_path: Path):
    script = tmp_path / "place.py"
    script.write_text(PRINT_PLACE)

    def make(name: str, *, sleep: float = 0.0, flops: float = 1.0, **resources: Any) -> Job:
        argv = (sys.executable, str(script), str(tmp_path / name), str(sleep))
        return Job(name, argv, tmp_path / "logs" / f"{name}.log", resources, flops)

    return make


def found(tmp_path: Path, name: str) -> dict[str, Any]:
    return json.loads((tmp_path / name).read_text())


def most_at_once(places: Sequence[dict[str, Any]]) -> int:
    moments = [place["began"] for place in places]
    return max(sum(p["began"] <= m < p["ended"] for p in places) for m in moments)


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def run_all(jobs: Sequence[Job], **settings: Any) -> Notes:
    notes, executor = Notes(), Local(Settings(**settings))
    executor.check(jobs)
    executor.start(jobs, notes)
    return notes


@pytest.mark.usefixtures("no_gpus")
@pytest.mark.parametrize("bound", [1, 3])
def test_never_more_than_the_bound_run_at_once(job, tmp_path: Path, bound: int) -> None:
    jobs = [job(f"r{i}", sleep=0.3) for i in range(5)]
    notes = run_all(jobs, max_parallel=bound)
    assert notes.codes == dict.fromkeys((f"r{i}" for i in range(5)), 0)
    assert most_at_once([found(tmp_path, one.run) for one in jobs]) == bound


@pytest.mark.usefixtures("no_gpus")
def test_a_run_of_several_processes_takes_a_core_for_each(job, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    jobs = [job(f"r{i}", sleep=0.3, processes=2) for i in range(2)]
    run_all([*jobs, job("one", sleep=0.3)])
    wide = [found(tmp_path, one.run) for one in jobs]
    assert most_at_once(wide) == 1
    assert most_at_once([*wide, found(tmp_path, "one")]) == 2


@pytest.mark.usefixtures("no_gpus")
def test_a_run_of_several_nodes_is_refused_on_one_machine(job) -> None:
    with pytest.raises(InputError, match="run a: 2 nodes asked and this is one machine"):
        Local(Settings()).check([job("a", nodes=2)])


@pytest.mark.usefixtures("no_gpus")
def test_the_longest_run_starts_first(job, tmp_path: Path) -> None:
    jobs = [job("a", flops=1.0), job("b", flops=3.0), job("c", flops=2.0)]
    run_all(jobs, max_parallel=1)
    assert sorted("abc", key=lambda name: found(tmp_path, name)["began"]) == ["b", "c", "a"]


@pytest.mark.usefixtures("no_gpus")
def test_a_run_gets_its_threads_whatever_the_number_of_runs(job, tmp_path: Path) -> None:
    run_all([job("a")], threads=3)
    place = found(tmp_path, "a")
    assert place["rest"] == ["--threads", "3"]
    assert (place["OMP_NUM_THREADS"], place["MKL_NUM_THREADS"]) == ("3", "3")
    run_all([job("b")])
    assert found(tmp_path, "b")["rest"] == ["--threads", "1"]


@pytest.mark.usefixtures("no_gpus")
def test_exit_codes_and_output_are_kept(job, tmp_path: Path) -> None:
    notes = run_all([job("x"), job("a")], max_parallel=2)
    assert notes.codes == {"x": 1, "a": 0}
    assert (tmp_path / "logs" / "x.log").read_text() == "hello\n"
    run_all([job("x")])
    text = (tmp_path / "logs" / "x.log").read_text()
    assert text.count("hello") == 2
    assert "--- started again 20" in text


@pytest.mark.usefixtures("no_gpus")
def test_a_job_cancelled_while_it_waits_is_not_started(job, tmp_path: Path) -> None:
    notes = Notes(unwanted=["b"])
    Local(Settings(max_parallel=1)).start([job("a"), job("b"), job("c")], notes)
    assert set(notes.handles) == set(notes.codes) == {"a", "c"}
    assert not (tmp_path / "b").exists()


def test_concurrent_runs_never_share_a_gpu(job, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    jobs = [job(f"r{i}", sleep=0.3) for i in range(4)]
    run_all(jobs)
    places = [found(tmp_path, one.run) for one in jobs]
    assert {place["CUDA_VISIBLE_DEVICES"] for place in places} == {"4", "7"}
    assert most_at_once(places) == 2
    for gpu in ("4", "7"):
        assert most_at_once([p for p in places if p["CUDA_VISIBLE_DEVICES"] == gpu]) == 1


def test_packed_runs_share_a_gpu_and_a_large_one_gets_all(job, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    packed = [job(f"p{i}", sleep=0.4, gpus=1, pack=2) for i in range(4)]
    large = job("large", gpus=2, flops=0.5)
    run_all([*packed, large])
    places = [found(tmp_path, one.run) for one in packed]
    assert most_at_once(places) == 4
    assert sorted(place["CUDA_VISIBLE_DEVICES"] for place in places) == ["0", "0", "1", "1"]
    assert sorted(found(tmp_path, "large")["CUDA_VISIBLE_DEVICES"].split(",")) == ["0", "1"]
    assert found(tmp_path, "large")["began"] >= max(place["ended"] for place in places)


def test_more_gpus_than_there_are_are_refused_before_anything_starts(job, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(InputError, match="run r: 2 GPUs asked but this machine shows 1"):
        run_all([job("a"), job("r", gpus=2)])


@pytest.mark.parametrize(
    ("told", "seen"),
    [("", ()), ("0,1", ("0", "1")), ("2, GPU-ab", ("2", "GPU-ab")), ("-1", ()), ("0,-1,2", ("0",))],
)
def test_gpus_are_named_as_cuda_reads_them(monkeypatch, told: str, seen: tuple) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    assert visible_gpus() == seen


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        ((), ()),
        (("nvidia0", "nvidia1", "nvidia10", "nvidia-uvm", "nvidiactl"), ("0", "1", "2")),
        (("nvidia3",), ("0",)),
    ],
)
def test_gpus_of_a_container_are_counted_from_zero(
    tmp_path: Path, monkeypatch, files: tuple, seen: tuple
) -> None:
    """Named by its file, the only GPU of a container hid itself from its run."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("scalekit.executors.local.DEVICES", tmp_path)
    for name in files:
        (tmp_path / name).touch()
    assert visible_gpus() == seen


@pytest.mark.usefixtures("no_gpus")
def test_a_process_that_cannot_start_stops_the_pool_and_its_runs(job, tmp_path: Path) -> None:
    long = job("a", sleep=60.0, flops=2.0)
    absent = Job("b", (str(tmp_path / "absent"),), tmp_path / "b.log", {}, 1.0)
    notes = Notes()
    with pytest.raises(SystemTroubleError, match=r"run b: cannot be started, No such file"):
        Local(Settings(max_parallel=2)).start([long, absent], notes)
    # It dies of the request to stop, which is no failure of its own.
    assert notes.codes == {"a": 143}


@pytest.mark.usefixtures("no_gpus")
def test_a_log_that_cannot_grow_is_named(job, tmp_path: Path) -> None:
    """As on a full disk, by a limit on the size of files."""
    again = job("a")
    again.log.parent.mkdir()
    again.log.write_text("what the run said before\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (again.log.stat().st_size, before[1]))
    try:
        with pytest.raises(SystemTroubleError, match=rf"File too large \({again.log}\)"):
            Local(Settings()).start([again], Notes())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("no_gpus")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_asked_to_stop_while_it_still_imports_is_stopped_and_a_killed_one_failed(
    job, number: int, code: int
) -> None:
    class Impatient(Notes):
        def started(self, jobs: Sequence[Job], handle: Handle) -> None:
            super().started(jobs, handle)
            os.kill(handle["pid"], number)

    notes = Impatient()
    Local(Settings(max_parallel=1)).start([job("a", sleep=60.0)], notes)
    assert notes.codes == {"a": code}
    # What the progress line and the exit code take for a stop.
    assert (code in STOPPED) == (number == signal.SIGTERM)


@pytest.mark.usefixtures("no_gpus")
@pytest.mark.parametrize("name", registry.names("executors"))
def test_every_executor_keeps_the_contract(name: str, job, tmp_path: Path) -> None:
    executor = registry.find("executors", name)(Settings(folder=tmp_path / name))
    assert executor.states([]) == []
    assert executor.cancel([]) == []
    if not executor.in_foreground:
        pytest.skip("needs its scheduler; tested beside it")
    jobs, notes = [job("a"), job("x")], Notes()
    executor.check(jobs)
    executor.start(jobs, notes)
    assert notes.codes == {"a": 0, "x": 1}
    assert set(notes.handles) == {"a", "x"}
    assert json.loads(json.dumps(notes.handles)) == notes.handles
    far = {**notes.handles["a"], "host": "elsewhere"}
    states = executor.states([("a", notes.handles["a"]), ("a", far)])
    assert [state.word for state in states][1] == "unknown"


def test_a_process_is_known_by_when_it_was_born() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    handle = process_handle(process.pid)
    assert process_state(handle).word == "running"
    assert process_state({**handle, "born": "earlier"}).word == "gone"
    assert process_state({**handle, "pid": 1}).word == "gone"
    assert process_state({**handle, "host": "elsewhere"}).word == "unknown"
    assert stop_process({**handle, "born": "earlier"}, group=True) is None
    assert process.poll() is None
    assert stop_process(handle, group=False) is None
    process.wait(timeout=10)
    process.communicate()
    assert process_state(handle).word == "gone"


def test_a_zombie_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE)
    handle = process_handle(process.pid)
    assert process.stdout is not None
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_state(handle).word == "gone"
    process.communicate()


def test_inline_gives_the_exit_code_of_a_file_and_of_a_module(tmp_path: Path, capsys) -> None:
    for text, code in [("", 0), ("import sys; sys.exit(4)", 4), ("raise SystemExit('no')", 1)]:
        (tmp_path / "x.py").write_text(text)
        assert run_here([sys.executable, str(tmp_path / "x.py"), "--flag"]) == code
    before = sys.argv
    assert run_here([sys.executable, "-m", "scalekit", "--version"]) == 0
    assert sys.argv is before
    assert capsys.readouterr().out.strip()


def test_progress_says_what_remains_from_the_speed_so_far(capsys) -> None:
    now, flops = [0.0], [10.0]
    count = lambda: Count(1, 2, 1, 8, flops[0], 100.0)  # noqa: E731
    progress = Progress(count, clock=lambda: now[0])
    with progress:
        now[0], flops[0] = 20.0, 40.0
        progress.tick()  # too soon for a line
        now[0] = 30.0
        progress.tick()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1/8 done, 2 running, 1 failed or diverged, 0s elapsed"
    assert lines[1] == "1/8 done, 2 running, 1 failed or diverged, 30s elapsed, about 1m00s left"


def test_what_a_run_says_inline_is_no_result_of_the_command(tmp_path: Path, capsys) -> None:
    (tmp_path / "x.py").write_text("print('run done')")
    job = Job("x", (sys.executable, str(tmp_path / "x.py")), tmp_path / "log", {}, 1.0)
    Inline(Settings()).start([job], Notes())
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "run done\n")
