"""`scalekit doctor`: what this machine has for a sweep, what is doubtful, and what to do."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from scalekit.commands._output import Format, FormatOption, format_table, print_csv, print_json
from scalekit.errors import UsageError

DISTRIBUTION = "scalekit-laws"
LEAST_DISK_GB = 5.0
LEAST_MEMORY_GB = 2.0
LEAST_PYTHON = (3, 11)

# In a process of its own: a torch that hangs on a broken driver must not take the doctor with it.
_TORCH_PROBE = """
import json, torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "version": str(torch.__version__),
    "threads": torch.get_num_threads(),
    "cuda": torch.version.cuda,
    "gpus": gpus,
    "gpu_gb": [torch.cuda.get_device_properties(i).total_memory / 1e9 for i in range(len(gpus))],
}))
"""
_TORCH_SECONDS = 120


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, `ok` or `doubt`, what was found, what to do."""

    what: str
    state: str
    found: str
    todo: str = ""


def doctor(
    form: FormatOption = Format.TABLE,
    profile: Annotated[
        str | None,
        typer.Option("--write-profile", metavar="NAME", help="write profiles/NAME.yaml from Slurm"),
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="of that profile; the cluster's default unless given")
    ] = None,
) -> None:
    """Look at Python, packages, devices, disk and scheduler, and say what to mend."""
    if profile is not None:
        return _write_profile(profile, partition)
    if partition is not None:
        raise UsageError("--partition: no profile is named; add --write-profile NAME")
    findings = list(_examine(Path.cwd()))
    rows = [asdict(finding) for finding in findings]
    if form is Format.JSON:
        print_json("doctor", {"findings": rows})
    elif form is Format.CSV:
        print_csv(list(Finding.__dataclass_fields__), rows)
    else:
        cells = [[f.what, f.state, f.found] for f in findings]
        lines = format_table(["", "", "found"], cells).splitlines()[1:]
        for line, finding in zip(lines, findings, strict=True):
            print(line)
            if finding.todo:
                print(f"    -> {finding.todo}")
    doubts = sum(f.state == "doubt" for f in findings)
    print(f"{doubts} in doubt" if doubts else "all is well", file=sys.stderr)
    return None


def _write_profile(name: str, partition: str | None) -> None:
    """Write a profile from what Slurm says of this cluster; an existing file is left alone."""
    from scalekit.executors._slurm_site import write_profile
    from scalekit.results.store import write_whole

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UsageError(f"--write-profile {name!r}: a file's name; use letters, digits and '-'")
    path = Path("profiles") / f"{name}.yaml"
    if path.exists():
        raise UsageError(f"{path}: exists; remove it or choose another name")
    text = write_profile(name, partition)
    write_whole(path, text)
    print(text, end="")
    print(f"written to {path}; a sweep names it: executor: {{profile: {name}}}", file=sys.stderr)


def _judge(what: str, is_fine: bool, found: str, todo: str) -> Finding:
    return Finding(what, "ok", found) if is_fine else Finding(what, "doubt", found, todo)


def _examine(folder: Path) -> Iterator[Finding]:
    yield _judge(
        "python",
        sys.version_info >= LEAST_PYTHON,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        f"use Python {'.'.join(map(str, LEAST_PYTHON))} or newer",
    )
    yield from _packages()
    yield _torch()
    yield _cores()
    yield _memory()
    yield _disk(folder)
    yield _locks(folder)
    yield _slurm()
    yield from _profiles(folder)


def _packages() -> Iterator[Finding]:
    """Compare what the distribution asks for with what is installed."""
    try:
        version = metadata.version(DISTRIBUTION)
        asked = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        todo = f"install it: pip install {DISTRIBUTION}, or pip install -e . in a checkout"
        yield Finding("scalekit", "doubt", "running from files, not installed", todo)
        return
    yield Finding("scalekit", "ok", f"{version} in {Path(__file__).resolve().parents[1]}")
    for line in asked:
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"]([^'\"]+)", line)
        found = _installed(name)
        if extra is None:
            least = re.search(r">=\s*([0-9.]+)", line)
            is_new = found is None or least is None or _numbers(found) >= _numbers(least.group(1))
            said = (found or "not installed") + ("" if is_new else f", {line} is asked for")
            todo = f"pip install '{line}'"
            yield _judge(name, found is not None and is_new, said, todo)
        elif extra.group(1) != "dev":
            hint = f"optional: pip install '{DISTRIBUTION}[{extra.group(1)}]'"
            yield Finding(name, "ok", found or f"not installed ({hint})")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, to compare it by."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def _torch() -> Finding:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TORCH_PROBE],
            capture_output=True,
            text=True,
            timeout=_TORCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = f"torch did not answer in {_TORCH_SECONDS} s"
        return Finding("devices", "doubt", found, "look at the GPU driver: nvidia-smi")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Finding("devices", "doubt", last, "reinstall torch; python -c 'import torch' fails")
    probe = json.loads(done.stdout.strip().splitlines()[-1])
    gpus = [f"{n} ({gb:.0f} GB)" for n, gb in zip(probe["gpus"], probe["gpu_gb"], strict=True)]
    if gpus:
        return Finding("devices", "ok", f"{len(gpus)} GPU: {', '.join(gpus)}")
    found = f"no GPU; torch uses {probe['threads']} CPU threads"
    has_card = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    todo = "there is an NVIDIA driver, but this torch does not see a GPU; install a CUDA build"
    return _judge("devices", not has_card, found, todo)


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = _cgroup("cpu.max").split()
    cores = float(usable or 1)
    if len(limit) == 2 and limit[0].isdigit():
        cores = min(cores, int(limit[0]) / int(limit[1]))
    todo = "the local executor starts a run a core at most; ask for more cores"
    return _judge("cores", cores >= 2, f"{cores:g} usable of {os.cpu_count()}", todo)


def _memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kilobytes = {
            name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)
        }
        available = kilobytes["MemAvailable"] * 1024 / 1e9
    except (OSError, KeyError, ValueError, IndexError):
        return Finding("memory", "ok", "not known on this system")
    limit = _cgroup("memory.max")
    if limit.isdigit():
        used = _cgroup("memory.current")
        available = min(available, (int(limit) - int(used or 0)) / 1e9)
    todo = f"runs need {LEAST_MEMORY_GB:g} GB and more; stop other programs"
    return _judge("memory", available >= LEAST_MEMORY_GB, f"{available:.1f} GB available", todo)


def _cgroup(name: str) -> str:
    """Return what the container's limit file says; empty where there is none."""
    try:
        return (Path("/sys/fs/cgroup") / name).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    todo = "checkpoints need space; free some or give another folder with --out"
    return _judge("disk", free >= LEAST_DISK_GB, f"{free:.0f} GB free in {folder}", todo)


def _locks(folder: Path) -> Finding:
    """Records are held by a lock on the file, which some network file systems do not have."""
    import fcntl

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        todo = "write sweeps elsewhere with --out; runs here could not guard their records"
        return Finding("folder", "doubt", f"{folder}: {error.strerror}", todo)
    return Finding("folder", "ok", "writable, with file locks")


def _slurm() -> Finding:
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return Finding("slurm", "ok", "no sbatch here: executors local and inline")
    try:
        done = subprocess.run(
            [sbatch, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("slurm", "doubt", f"{sbatch}: {error}", "ask the cluster's people")
    if done.returncode:
        from scalekit.executors._slurm_queue import own_words

        todo = "ask where slurm.conf is, and name it in SLURM_CONF"
        return Finding("slurm", "doubt", own_words(done.stderr, "sbatch"), todo)
    return Finding("slurm", "ok", f"{done.stdout.strip()} ({sbatch})")


def _profiles(folder: Path) -> Iterator[Finding]:
    """Read every profile that a sweep here could name."""
    from scalekit.config.nodes import read_nodes, read_source
    from scalekit.config.problems import ConfigError, Problems
    from scalekit.config.validate import read_model
    from scalekit.sweep.files import user_profiles
    from scalekit.sweep.sections import ProfileFile

    homes = (folder / "profiles", folder / "sweeps" / "profiles", user_profiles())
    for path in (path for home in homes for path in sorted(home.glob("*.yaml"))):
        problems = Problems()
        try:
            read_model(read_nodes(read_source(path)), ProfileFile, problems)
            problems.raise_if_any()
        except ConfigError as error:
            first = error.problems[0]
            yield Finding(
                f"profile {path.stem}", "doubt", f"{first.place}: {first.what}", first.todo
            )
        else:
            yield Finding(f"profile {path.stem}", "ok", str(path))


COMMAND = doctor
