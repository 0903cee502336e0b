"""One run as several processes: the place each is given, whose word counts, who is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scalekit.errors import InputError, SystemTroubleError
from scalekit.executors import _team
from scalekit.executors._place import BY_SRUN, Place, find_place
from scalekit.executors._team import run_team, srun_words
from scalekit.executors.base import count_processes

MEMBER = """
import json, os, signal, sys, time
from pathlib import Path
from scalekit.executors._place import die_with_launcher, find_place
die_with_launcher()
place = find_place(os.environ)
told = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda n, _: told.append(n))
Path(sys.argv[1], str(place.rank)).write_text(json.dumps({"pid": os.getpid(), **vars(place)}))
does = sys.argv[2 + place.rank]
end = time.monotonic() + 60
while does == "waits" and not told and time.monotonic() < end:
    time.sleep(0.01)
if does == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(143 if does == "waits" else int(does))
"""


@pytest.fixture
def member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line of a process that says where it is; what it does follows, by rank."""
    for name in ("SLURM_JOB_NUM_NODES", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "member.py").write_text(MEMBER)
    (tmp_path / "places").mkdir()
    return [sys.executable, str(tmp_path / "member.py"), str(tmp_path / "places")]


def places(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "places").iterdir())]


def test_every_process_has_a_place_of_its_own_and_one_meeting_point(member, tmp_path: Path) -> None:
    assert run_team([*member, "0", "0", "0"], 3, 1) == 0
    found = places(tmp_path)
    assert [(p["rank"], p["size"], p["local_rank"], p["local_size"]) for p in found] == [
        (rank, 3, rank, 3) for rank in range(3)
    ]
    assert {p["address"] for p in found} == {"127.0.0.1"}
    assert len({p["port"] for p in found}) == 1
    # The port is held open from the beginning, so that nobody else takes it meanwhile.
    assert [p["listener"] is not None for p in found] == [True, False, False]


def test_the_first_processs_exit_code_is_the_runs(member) -> None:
    assert run_team([*member, "4", "0"], 2, 1) == 4
    assert run_team([*member, "0", "3"], 2, 1) == 0


def test_a_process_that_is_killed_is_trouble_of_the_system(member, monkeypatch, capsys) -> None:
    monkeypatch.setattr(_team, "GRACE_SECONDS", 0.5)
    assert run_team([*member, "waits", "dies"], 2, 1) == 7
    said = capsys.readouterr().err
    assert "process 1 of 2 was killed by signal 9" in said
    # The other one is not left waiting for it.
    assert "process 0 of 2 was killed by signal 9" in said


def test_a_signal_to_the_launcher_reaches_every_process_and_its_death_does(
    member, tmp_path: Path
) -> None:
    start = "import sys; from scalekit.executors._team import run_team; "
    start += "sys.exit(run_team(sys.argv[1:], 2, 1))"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        for path in (tmp_path / "places").iterdir():
            path.unlink()
        launcher = subprocess.Popen([sys.executable, "-c", start, *member, "waits", "waits"])
        wait_until(lambda: len(list((tmp_path / "places").glob("?"))) == 2)
        time.sleep(0.2)  # a file may be there and still be empty
        pids = [place["pid"] for place in places(tmp_path)]
        launcher.send_signal(number)
        assert launcher.wait(timeout=60) == code
        wait_until(lambda pids=pids: not any(map(is_alive, pids)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_told_before_a_process_listens_a_run_is_stopped_and_not_in_trouble(
    member, tmp_path: Path, monkeypatch, number: int
) -> None:
    """A process that still imports dies of the request; the others wait for it in vain."""
    hush = "import sys, time; from scalekit.executors import _team; _team.GRACE_SECONDS = 0.5; "
    start = hush + "print(_team.run_team(sys.argv[1:], 2, 1))"
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, time\nif os.environ.get('RANK') == '1':\n"
        f"    open({str(tmp_path / 'imports')!r}, 'w').close()\n    time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    # The first one listens, and is kept by what a process does that waits for another.
    (tmp_path / "member.py").write_text(MEMBER.replace("and not told", ""))
    launcher = subprocess.Popen(
        [sys.executable, "-c", start, *member, "waits", "waits"], stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: (tmp_path / "imports").exists() and list((tmp_path / "places").glob("0")))
    launcher.send_signal(number)
    assert launcher.communicate(timeout=60)[0] == f"{-number}\n"


@pytest.mark.parametrize("handler", [f"trap 'exit {128 + signal.SIGUSR2}' USR2", ""])
def test_told_before_a_process_of_srun_listens_a_run_is_stopped(
    tmp_path: Path, handler: str
) -> None:
    """What srun passes on ends a process that still imports; srun's code then names the signal.

    In its first milliseconds srun does not listen itself, and dies of it.
    """
    (tmp_path / "srun").write_text(
        f"#!/bin/bash\n{handler}\n: > {tmp_path}/there\nfor i in {{1..600}}; do sleep 0.1; done\n"
    )
    (tmp_path / "srun").chmod(0o755)
    start = "from scalekit.executors._team import run_team; print(run_team(['train'], 2, 2))"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    launcher = subprocess.Popen(
        [sys.executable, "-c", start],
        env={**os.environ, "PATH": path, "SLURM_JOB_NUM_NODES": "2"},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until((tmp_path / "there").exists)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.communicate(timeout=60)[0] == f"{-signal.SIGTERM}\n"


def srun_that(does: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a job of two nodes whose srun is a script of Python."""
    (tmp_path / "srun").write_text(f"#!{sys.executable}\n{does}")
    (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SLURM_JOB_NUM_NODES": "2"}


TAKES_THE_PORT = """
import os, socket, sys
port = int(os.environ["MASTER_PORT"])
try:
    socket.socket().bind(("", port))  # as for one who asks for any
    sys.exit(1)
except OSError:
    sys.exit(3 if socket.create_server(("", port)) else 1)  # as the first does
"""


def test_no_other_job_is_given_the_port_before_the_first_listens_at_it(tmp_path: Path) -> None:
    launch = "import sys; from scalekit.executors._team import run_team; "
    words = [sys.executable, "-c", launch + "sys.exit(run_team(['train'], 2, 2))"]
    assert (
        subprocess.run(words, env=srun_that(TAKES_THE_PORT, tmp_path), check=False).returncode == 3
    )


ENDS_WHEN_TOLD = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(143))
Path(__file__).with_name("there").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_of_several_nodes_ends_as_one_that_was_interrupted_or_told(
    tmp_path: Path, number: int, code: int
) -> None:
    launch = "from scalekit.executors._team import run_team; print(run_team(['train'], 2, 2))"
    environment = srun_that(ENDS_WHEN_TOLD, tmp_path)
    launcher = subprocess.Popen(
        [sys.executable, "-c", launch], env=environment, stdout=subprocess.PIPE, text=True
    )
    wait_until((tmp_path / "there").exists)
    launcher.send_signal(number)
    assert launcher.communicate(timeout=60)[0] == f"{code}\n"


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_several_nodes_need_a_job_that_has_them(member, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"resources\.nodes: 2, and this is one machine; submit"):
        run_team(member, 2, 2)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with pytest.raises(InputError, match="this is a job of 2 nodes"):
        run_team(member, 3, 3)
    with pytest.raises(InputError, match="3 are no whole number for each of 2 nodes"):
        run_team(member, 3, 2)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemTroubleError, match="srun: cannot be started"):
        run_team(member, 2, 2)


def test_the_places_of_torchrun_and_of_srun_are_read() -> None:
    meeting = {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert find_place(torchrun | meeting) == Place(3, 4, 1, 2, "n1", 29500)
    # A batch job has the variables of a step as well, of its own one task.
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
    slurm |= {"SLURM_STEP_NUM_NODES": "2"}
    assert find_place(slurm | meeting) is None
    by_srun = {BY_SRUN: "1"}
    assert find_place(slurm | meeting | by_srun) == Place(3, 4, 1, 2, "n1", 29500)
    with pytest.raises(InputError, match="environment: 'MASTER_ADDR'"):
        find_place(torchrun)
    with pytest.raises(InputError, match="environment: invalid literal"):
        find_place(torchrun | meeting | {"RANK": "x"})


def test_srun_starts_as_many_on_each_node_and_shares_its_cores_out() -> None:
    words = srun_words(6, 2, "7")
    assert words[:5] == [
        "srun",
        "--nodes=2",
        "--ntasks=6",
        "--ntasks-per-node=3",
        "--cpus-per-task=2",
    ]
    # The first may still write down what another one said, as it may here.
    assert {"--kill-on-bad-exit=0", f"--wait={_team.GRACE_SECONDS:.0f}"} < set(words)
    assert not any(word.startswith("--cpus") for word in srun_words(2, 2, None))


def test_a_run_has_a_process_for_each_gpu_and_node_unless_it_says() -> None:
    assert count_processes({"gpus": 0, "nodes": 1, "processes": None}) == 1
    assert count_processes({"gpus": 1}) == 1
    assert count_processes({"gpus": 8, "nodes": 2}) == 8
    assert count_processes({"nodes": 2, "processes": 4}) == 4
