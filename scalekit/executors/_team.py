"""One run as several processes: started together, told together, none of them left behind.

The command that trains a run becomes their launcher and starts itself once for each: here, or with
srun on all nodes of the Slurm job that it is in. The first speaks for the run: its exit code is the
run's. They find each other as `_place` says. Two things differ from submitit's variables: the port
is a free one, not drawn from the job's number, because a worker starts many runs in one job; and
the address is the machine's own name, because Slurm's need not resolve.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from scalekit.errors import INTERRUPTED, SYSTEM_TROUBLE, InputError, SystemTroubleError
from scalekit.executors._place import BY_SRUN, LIFELINE, LISTENER
from scalekit.executors.base import STOPPED
from scalekit.signals import stop_requests

GRACE_SECONDS = 30.0
"""How long the others may go on once one has ended: the first to write down why, and no longer."""

POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1


def run_team(argv: Sequence[str], n_processes: int, n_nodes: int) -> int:
    """Train a run in several processes and return its exit code.

    Inside a Slurm job of several nodes they are spread over its nodes; else they are all here.
    A negative code is a signal that asked the run to stop before all could hear it: nothing began.

    Args:
        argv: What each of them calls.
        n_processes: How many.
        n_nodes: How many nodes the run asks for.

    Raises:
        InputError: Several nodes, and no Slurm job that has them; or uneven shares.
        SystemTroubleError: They cannot be started.
    """
    has = nodes_for(n_nodes)
    if n_nodes == 1 and n_processes % has:
        has = 1  # as a person would who tries a run inside a larger job
    if n_processes % has:
        raise InputError(
            f"resources.processes: {n_processes} are no whole number for each of {has} nodes; "
            "choose a multiple"
        )
    with stop_requests() as told:
        try:
            if has > 1:
                return _run_by_srun(argv, n_processes, has, told)
            return _run_here(argv, n_processes, told)
        except OSError as error:
            raise SystemTroubleError(
                f"{error.filename or argv[0]}: cannot be started, {error.strerror}"
            ) from error


def nodes_for(n_nodes: int) -> int:
    """Return how many nodes there are for a run that asks for some.

    Raises:
        InputError: Fewer.
    """
    has = int(os.environ.get("SLURM_JOB_NUM_NODES") or 1)
    if has < n_nodes:
        raise InputError(
            f"resources.nodes: {n_nodes}, and this is "
            + ("one machine" if has == 1 else f"a job of {has} nodes")
            + "; submit the sweep with executor: {kind: slurm}, or train in other processes with "
            "--processes"
        )
    return has


# --- here ------------------------------------------------------------------------------------


def _run_here(argv: Sequence[str], n: int, told: list[int]) -> int:
    lifeline, held = os.pipe()
    children: list[subprocess.Popen[bytes]] = []
    try:
        with socket.create_server(("127.0.0.1", 0), backlog=max(64, n)) as listener:
            shared = _variables(n, listener.getsockname()[1]) | {LIFELINE: str(lifeline)}
            for rank in range(n):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                fds = [lifeline]
                if rank == 0:
                    own[LISTENER] = str(listener.fileno())
                    fds.append(listener.fileno())
                children.append(_start(argv, {**os.environ, **shared, **own}, fds))
        return _watch(children, told)
    finally:
        os.close(lifeline)
        os.close(held)
        for child in children:
            child.wait()


def _variables(n: int, port: int) -> dict[str, str]:
    found = {
        "WORLD_SIZE": str(n),
        "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loopback and "GLOO_SOCKET_IFNAME" not in os.environ:
        # A host's own name may lead to no address, or to one that a container cannot reach.
        found["GLOO_SOCKET_IFNAME"] = loopback[0]
    return found


def _start(
    argv: Sequence[str], environment: Mapping[str, str], fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    # A group of its own: a signal to the launcher's group must not reach it twice, for the launcher
    # passes it on.
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, env=environment, pass_fds=fds, start_new_session=True
    )


def _watch(children: Sequence[subprocess.Popen[bytes]], told: list[int]) -> int:
    """Wait for all; once one has ended, the others have a grace. Return the run's exit code."""
    n_told, deadline = 0, None
    while any(child.poll() is None for child in children):
        for number in told[n_told:]:
            _tell(children, number)
        n_told = len(told)
        if deadline is None and any(child.poll() is not None for child in children):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            _tell(children, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    for rank, child in enumerate(children):
        if child.returncode < 0:
            _say(f"process {rank} of {len(children)} was killed by signal {-child.returncode}")
    first = children[0].returncode
    # A process that dies of the signal had no handler yet: none can have begun without it.
    if first < 0 and any(-child.returncode in told for child in children):
        return -told[0]
    return first if first >= 0 else SYSTEM_TROUBLE


def _tell(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)


# --- on the nodes of a Slurm job -----------------------------------------------------------------


def _run_by_srun(argv: Sequence[str], n: int, nodes: int, told: list[int]) -> int:
    """Start the processes with srun, which tells and ends them.

    Its exit code is the highest of theirs: the first's, as the others end with 0 once they met.
    """
    with socket.socket() as held:
        # Held until they end, so that nobody else is given this port; the first may still listen.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))
        found = {
            BY_SRUN: "1",
            "MASTER_ADDR": os.environ.get("MASTER_ADDR", socket.gethostname()),
            "MASTER_PORT": str(held.getsockname()[1]),
        }
        words = srun_words(n, nodes, os.environ.get("SLURM_CPUS_PER_TASK"))
        process = subprocess.Popen(
            [*words, *argv],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **found},
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509
        )
        n_told = 0
        while process.poll() is None:
            if len(told) > n_told:
                n_told = len(told)
                # Of the signals that runs listen to, the one that srun just passes on.
                process.send_signal(signal.SIGUSR2)
            time.sleep(POLL_SECONDS)
    return _code_of_srun(process.returncode, nodes, told)


def _code_of_srun(code: int, nodes: int, told: Sequence[int]) -> int:
    if code in STOPPED:  # untold as well: somebody asked one of them, or the step
        return INTERRUPTED if told and told[0] == signal.SIGINT else code
    if 0 <= code < 128:
        return code
    # Either a process had no handler yet, and srun ended the others; or srun itself had none
    # yet, and there is no step.
    if told and code in (128 + signal.SIGUSR2, -signal.SIGUSR2):
        return -told[0]
    _say(f"a process on one of {nodes} nodes was killed, srun's exit code is {code}")
    return SYSTEM_TROUBLE


def srun_words(n: int, nodes: int, cpus_per_node: str | None) -> list[str]:
    """Return the call of srun that starts so many processes, as many on each node."""
    on_each = n // nodes
    words = ["srun", f"--nodes={nodes}", f"--ntasks={n}", f"--ntasks-per-node={on_each}"]
    if cpus_per_node is not None:
        words.append(f"--cpus-per-task={max(1, int(cpus_per_node) // on_each)}")
    # Once one has ended, the others have a grace, as here; what they print is not held back.
    words += ["--kill-on-bad-exit=0", f"--wait={GRACE_SECONDS:.0f}"]
    return [*words, "--unbuffered", "--distribution=block"]


def _die_with_parent() -> None:
    """Ask Linux to end this process with the one that starts it; Slurm is nowhere else."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
