"""A private Slurm on loopback: controller and several nodes with fake GPUs, in one folder.

Needs no root, no systemd, no munge and nothing in /etc: every daemon runs in the foreground as a
child of the caller, on its own ports, and keeps all it writes in the folder. For people:

    python tests/slurm/cluster.py up --home /tmp/slurm      (then: . /tmp/slurm/env.sh)
    python tests/slurm/cluster.py down --home /tmp/slurm
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slurm_conf import MEMORY_GROUPS, cgroup_conf, gres_conf, slurm_conf, slurmdbd_conf

INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client"
INSTALL_ACCOUNTING = "apt-get install -y --no-install-recommends slurmdbd mariadb-server"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db")

_SBIN = ("/usr/sbin", "/sbin")
_UP = ("idle", "mixed", "allocated", "completing")


class ClusterError(Exception):
    """The cluster does not come up; the message ends with what its daemons said."""


def missing_programs(*, accounting: bool) -> list[str]:
    """List what has to be installed first."""
    wanted = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    return [name for name in wanted if shutil.which(name, path=search_path()) is None]


def search_path() -> str:
    """Return PATH with the folders that hold daemons."""
    return os.pathsep.join([os.environ.get("PATH", ""), *_SBIN])


def require_slurm(*, accounting: bool) -> None:
    """Skip where Slurm is not installed; where it is required, fail."""
    import pytest  # a person who starts a cluster need not have it

    missing = missing_programs(accounting=accounting)
    if not missing:
        return
    lines = " && ".join([INSTALL, *([INSTALL_ACCOUNTING] if accounting else [])])
    sentence = f"no {', '.join(missing)} here; install: {lines}"
    if os.environ.get("SCALEKIT_REQUIRE_SLURM") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)


@dataclass
class Cluster:
    """One cluster; `start` and `stop` may be called again.

    Attributes:
        home: Folder of everything the cluster writes.
        port: First of the ports it uses; it takes some of the 200 that follow.
        confines_memory: Whether jobs have control groups that hold them to their memory; needs
            `can_confine_memory`.
        settings: Lines of slurm.conf over those written here.
        survives: Whether the daemons outlive the process that started them.
    """

    home: Path
    port: int
    nodes: int = 4
    cpus: int = 8
    gpus: int = 4
    accounting: bool = False
    confines_memory: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    survives: bool = False

    def __post_init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to speak to this cluster."""
        return {"SLURM_CONF": str(self.home / "etc" / "slurm.conf"), "PATH": search_path()}

    @property
    def node_names(self) -> list[str]:
        """The nodes."""
        return [f"n{i}" for i in range(1, self.nodes + 1)]

    def call(self, *words: str, seconds: float = 30.0, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it printed.

        Raises:
            ClusterError: It failed, and `check` is set.
        """
        done = subprocess.run(
            words,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode:
            raise ClusterError(f"{' '.join(words)}: exit code {done.returncode}, {done.stderr}")
        return done.stdout

    def answers(self, *words: str) -> bool:
        """Say whether a command succeeds."""
        try:
            self.call(*words)
        except (ClusterError, subprocess.TimeoutExpired):
            return False
        return True

    # --- up and down -----------------------------------------------------------------------

    def start(self) -> None:
        """Bring everything up and wait until every node can take work.

        Raises:
            ClusterError: A daemon ends, or the nodes do not come up.
        """
        for name in (
            "etc",
            "run",
            "log",
            "state",
            "gpus",
            *(f"spool/{n}" for n in self.node_names),
        ):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        for i in range(self.gpus):
            # gres/gpu insists on a device file; the trailing digits number the GPUs.
            link = self.home / "gpus" / f"gpu{i}"
            link.unlink(missing_ok=True)
            link.symlink_to("/dev/null")
        self._write_settings()
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for name in self.node_names:
            self.start_node(name)
        self._wait("the nodes", self._nodes_up, 20.0)

    def start_controller(self) -> None:
        """Start slurmctld; it takes up the state of an earlier one."""
        self._spawn("slurmctld", ["slurmctld", "-D", "-f", self.environment["SLURM_CONF"]])
        self._wait("slurmctld", lambda: self.answers("scontrol", "ping"), 15.0)

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        self._spawn(
            f"slurmd.{name}", ["slurmd", "-D", "-f", self.environment["SLURM_CONF"], "-N", name]
        )

    def kill(self, daemon: str, number: int = signal.SIGKILL) -> None:
        """End a daemon by its name (`slurmctld`, `slurmd.n1`) and wait until it is gone."""
        child = self._children.pop(daemon)
        child.send_signal(number)
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(timeout=10)

    def mend(self) -> None:
        """Start again what has died, and wait until every node can take work."""
        wanted = {"slurmctld": self.start_controller}
        for name in self.node_names:
            wanted[f"slurmd.{name}"] = functools.partial(self.start_node, name)
        for name, start in wanted.items():
            child = self._children.get(name)
            if child is None or child.poll() is not None:
                self._children.pop(name, None)
                start()
        self._wait("the nodes", self._nodes_resumed, 90.0)

    def stop(self) -> None:
        """Cancel all jobs, then end the daemons, and only those."""
        controller = self._children.get("slurmctld")
        # Without a controller its commands would only wait for it.
        if controller is not None and controller.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.clear(seconds=5.0)
        for name in [n for n in self._children if n.startswith("slurmd.")]:
            self.kill(name, signal.SIGTERM)
        for name in ("slurmctld", "slurmdbd", "mariadbd"):
            if name in self._children:
                self.kill(name, signal.SIGTERM)

    def clear(self, seconds: float = 20.0) -> None:
        """Cancel all jobs and wait until none of their processes is left."""
        self.call("scancel", "-u", getpass.getuser(), check=False)
        deadline = time.monotonic() + seconds
        while self.call("squeue", "-h", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.1)

    # --- pieces ----------------------------------------------------------------------------

    def _spawn(self, name: str, argv: Sequence[str]) -> None:
        """Start a daemon in the foreground, its output in a log of its name."""
        program = shutil.which(argv[0], path=search_path())
        assert program is not None
        # Killed tests leave no daemons behind.
        prefix = [] if self.survives else ["setpriv", "--pdeathsig", "TERM"]
        with (self.home / "log" / f"{name}.out").open("ab") as log:
            child = subprocess.Popen(
                [*prefix, program, *argv[1:]],
                env={**os.environ, **self.environment},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[name] = child
        (self.home / "run" / f"{name}.started").write_text(f"{child.pid} {argv[0]}\n")

    def _wait(self, what: str, is_up: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_up():
            dead = [n for n, child in self._children.items() if child.poll() is not None]
            if dead or time.monotonic() > deadline:
                said = f"{', '.join(dead) or 'none'} dead; {self._states()}"
                self.stop()
                raise ClusterError(f"{what} did not come up: {said}\n{self._tails()}")
            time.sleep(0.05)

    def _tails(self) -> str:
        texts = []
        for path in sorted((self.home / "log").iterdir()):
            lines = path.read_text(errors="replace").splitlines()[-5:]
            texts.append("\n  ".join([path.name, *lines]))
        return "\n".join(texts)

    def _states(self) -> str:
        """What the controller says of the nodes; empty where it does not answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.call("sinfo", "-h", "-N", "-o", "%N %T %E", check=False)
        return ""

    def _nodes_up(self) -> bool:
        states = self.call("sinfo", "-h", "-N", "-o", "%N %T", check=False).split("\n")
        pairs = {tuple(line.split()) for line in states if line}
        return sum(state in _UP for _, state in pairs) >= self.nodes

    def _nodes_resumed(self) -> bool:
        """Ask for the nodes until they are up: one that registers late, or is drained then."""
        if self._nodes_up():
            return True
        for name in self.node_names:
            self.call("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        return False

    def _start_accounting(self) -> None:
        data, sock, me = self.home / "db", self.home / "run" / "mysql.sock", getpass.getuser()
        if not (data / "mysql").exists():
            install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={me}"]
            install += ["--auth-root-authentication-method=socket", "--skip-test-db"]
            self.call(*install, f"--auth-root-socket-user={me}", seconds=120.0)
        self._spawn(
            "mariadbd",
            [
                "mariadbd",
                "--no-defaults",
                f"--user={me}",
                f"--datadir={data}",
                f"--socket={sock}",
                "--bind-address=127.0.0.1",
                f"--port={self.port + 6}",
                "--skip-log-bin",
                "--skip-name-resolve",
                "--innodb-buffer-pool-size=64M",
                "--innodb-log-file-size=32M",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-lock-wait-timeout=900",
            ],
        )
        client = ["--no-defaults", f"--socket={sock}"]
        self._wait("mariadbd", lambda: self.answers("mariadb-admin", *client, "ping"), 60.0)
        self.call(
            "mariadb",
            *client,
            "-e",
            "create database if not exists slurm_acct_db; "
            "create user if not exists slurm@127.0.0.1 identified by 'slurm'; "
            "grant all on slurm_acct_db.* to slurm@127.0.0.1;",
        )
        self._spawn("slurmdbd", ["slurmdbd", "-D"])
        self._wait("slurmdbd", lambda: self.answers("sacctmgr", "-n", "show", "cluster"), 60.0)
        # What is there already, in a folder that was used before, is refused and stays.
        self.call("sacctmgr", "-i", "add", "cluster", "dev", check=False)
        self.call("sacctmgr", "-i", "add", "account", "test", check=False)
        self.call("sacctmgr", "-i", "add", "user", me, "account=test", check=False)

    def _write_settings(self) -> None:
        etc = self.home / "etc"
        (etc / "slurm.conf").write_text(slurm_conf(self))
        (etc / "gres.conf").write_text(gres_conf(self))
        version = self.call("slurmctld", "-V").split()[1]
        # A cgroup plugin is always loaded before 24.05; v1 is inert with the plugins chosen here.
        plugin = "disabled" if int(version.partition(".")[0]) >= 24 else "cgroup/v1"
        (etc / "cgroup.conf").write_text(cgroup_conf(self, plugin))
        if self.accounting:
            dbd = etc / "slurmdbd.conf"
            dbd.write_text(slurmdbd_conf(self))
            dbd.chmod(0o600)
        lines = [f"export {name}={value}" for name, value in self.environment.items()]
        (self.home / "env.sh").write_text("\n".join(lines) + "\n")


def can_confine_memory() -> bool:
    """Say whether this machine lets us make control groups of memory (version 1)."""
    return os.access(MEMORY_GROUPS, os.W_OK) and (MEMORY_GROUPS / "memory.limit_in_bytes").exists()


def worker_number() -> int:
    """Tell pytest-xdist's workers apart, which start their clusters at the same time."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port(number: int = 0) -> int:
    """Find the first of 200 free ports; `number` tells callers at the same time apart."""
    for base in range(17000 + 200 * (number % 60), 32000, 200):
        if all(_is_free(base + i) for i in (1, 2, 3, 6, *range(101, 117))):
            return base
    raise ClusterError("no free ports between 17000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", port))
        except OSError:
            return False
    return True


def pids_of(cluster: Cluster, pattern: str) -> list[int]:
    """Find processes of this cluster by their command lines."""
    done = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    mark = f"SLURM_CONF={cluster.environment['SLURM_CONF']}".encode()
    found = []
    for pid in done.stdout.split():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if mark in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(int(pid))
    return found


def stop_started(home: Path) -> list[str]:
    """End the daemons that another process started in a folder, by the ids it noted."""
    stopped = []
    order = ("slurmd.", "slurmctld", "slurmdbd", "mariadbd")
    notes = (home / "run").glob("*.started")
    for note in sorted(notes, key=lambda p: [p.name.startswith(o) for o in order], reverse=True):
        pid, program = note.read_text().split()
        # A process id is used again; the program's name says whether it is still ours.
        if _program(int(pid)) == program:
            os.kill(int(pid), signal.SIGTERM)
            deadline = time.monotonic() + 10.0
            while _program(int(pid)) == program and time.monotonic() < deadline:
                time.sleep(0.05)
            stopped.append(note.stem)
        note.unlink()
    return stopped


def _program(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, rest = stat.partition("(")[2].rpartition(")")[::2]
    return None if rest.split()[0] in "ZX" else name


def main(argv: Sequence[str]) -> int:
    """Bring a cluster up or down for a person."""
    parser = argparse.ArgumentParser(description="A private Slurm on this machine.")
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
    args = parser.parse_args(argv)
    home = args.home.absolute()
    if args.what == "down":
        Cluster(home, 0).clear(seconds=5.0)
        _say(f"stopped {', '.join(stop_started(home)) or 'nothing'}")
        return 0
    missing = missing_programs(accounting=args.accounting)
    if missing:
        lines = [INSTALL, *([INSTALL_ACCOUNTING] if args.accounting else [])]
        _say(f"missing {', '.join(missing)}; install: {' && '.join(lines)}")
        return 1
    if any(_program(int(n.read_text().split()[0])) for n in (home / "run").glob("*.started")):
        _say(f"already up: . {home}/env.sh")
        return 0
    sizes = {"nodes": args.nodes, "gpus": args.gpus, "accounting": args.accounting}
    Cluster(home, free_port(), survives=True, **sizes).start()
    _say(f"up: . {home}/env.sh")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
