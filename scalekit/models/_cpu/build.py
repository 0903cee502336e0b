"""Build the kernels with the compiler at hand, once for each kind of processor, and load them."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from scalekit.signals import unheard_by_children

HERE = Path(__file__).parent
SOURCES = ("attention.cpp", "linear.cpp", "tokens.cpp")
HEADERS = ("vector.h",)
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC"),
    # A square root need not set errno, and nothing here traps: both let the compiler use vectors.
    *("-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
)
COMPILERS = ("c++", "g++", "clang++")
SWITCH = "SCALEKIT_KERNELS"
"""Environment variable that turns the kernels off when it is `off`."""
_SECONDS = 120
_STALE_SECONDS = 3600
"""How old a room to build in is when nobody can be at work in it any more."""


class KernelsUnavailableError(Exception):
    """Why there are no kernels here; the message is for a person."""


def load(real: str = "float") -> ctypes.CDLL:
    """Load the kernels, built first where this processor has not met these sources yet.

    Args:
        real: The C++ type of every number.

    Raises:
        KernelsUnavailableError: Turned off, no compiler, or one that refuses.
    """
    if os.environ.get(SWITCH) == "off":
        raise KernelsUnavailableError(f"{SWITCH} is 'off'")
    found = _found(real)
    if isinstance(found, str):
        raise KernelsUnavailableError(found)
    return found


@cache
def _found(real: str) -> ctypes.CDLL | str:
    """Load or build once a process, or say why not: every step asks, with kernels or without."""
    try:
        return _load(real)
    except KernelsUnavailableError as error:
        return str(error)


def _load(real: str) -> ctypes.CDLL:
    name = f"kernels-{_fingerprint(real)}.so"
    folders = [folder for folder in _folders() if _lets_load(folder)]
    for folder in folders:
        if (folder / name).is_file():
            return _open(folder / name)
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _clear(folder)
            with tempfile.TemporaryDirectory(dir=folder, prefix="kernels-") as room:
                built = _build(Path(room), real)
                # Whole or not at all: other runs of the sweep start at the same moment.
                built.replace(folder / name)
        except OSError:
            continue
        return _open(folder / name)
    tried = ", ".join(map(str, _folders()))
    raise KernelsUnavailableError(f"no folder to build in and to load from: {tried}")


def _clear(folder: Path) -> None:
    """Remove what a kill has left half built."""
    for room in folder.glob("kernels-*/"):
        with suppress(OSError):  # others clear as well, and those who are done
            if time.time() - room.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(room)


def _build(room: Path, real: str) -> Path:
    """Compile and link in `room`; with OpenMP where the compiler and torch have it.

    The OpenMP functions are left open when linking and found in what torch has loaded: a second
    OpenMP beside torch's would fight it for the cores.
    """
    compiler = _find_compiler()
    failure = ""
    for openmp in (["-fopenmp"], []):
        sources = [str(HERE / source) for source in SOURCES]
        objects = [source.replace(".cpp", ".o") for source in SOURCES]
        failure = _run([compiler, *FLAGS, *openmp, f"-DREAL={real}", "-c", *sources], room)
        lookup = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        failure = failure or _run(
            [compiler, "-shared", *lookup, *objects, "-o", "kernels.so"], room
        )
        if failure:
            continue
        try:
            _open(room / "kernels.so")
        except KernelsUnavailableError as error:
            failure = str(error)
            continue
        return room / "kernels.so"
    raise KernelsUnavailableError(f"{compiler}: {failure}")


def _open(path: Path) -> ctypes.CDLL:
    try:
        kernels = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelsUnavailableError(str(error)) from error
    for name, n_arguments in (
        ("attention_scratch", 2),
        ("attention_width", 1),
        ("linear_scratch", 3),
    ):
        function = getattr(kernels, name)
        function.argtypes, function.restype = [ctypes.c_long] * n_arguments, ctypes.c_long
    return kernels


def _run(argv: list[str], room: Path) -> str:
    """Run and return what went wrong, in one line, or nothing."""
    try:
        with unheard_by_children():
            done = subprocess.run(
                argv,
                cwd=room,
                capture_output=True,
                text=True,
                errors="replace",  # compilers speak the language of the place, in its letters
                timeout=_SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return f"took more than {_SECONDS} s"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[0] if done.returncode else ""


def _find_compiler() -> str:
    for name in (os.environ.get("CXX"), *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise KernelsUnavailableError(f"no C++ compiler ({', '.join(COMPILERS)})")


def _folders() -> Iterator[Path]:
    """Yield where built kernels are kept: beside Python's own compiled files, else in the cache."""
    yield Path(importlib.util.cache_from_source(__file__)).parent
    home = os.environ.get("XDG_CACHE_HOME")
    yield (Path(home) if home else Path.home() / ".cache") / "scalekit"


def _lets_load(folder: Path) -> bool:
    """Whether code may run from a folder, which need not be there yet: some mounts forbid it."""
    place = folder
    while not place.exists():
        place = place.parent
    return not os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0)  # Linux alone tells


def _fingerprint(real: str) -> str:
    """Name what decides the binary: the sources, how they are compiled, and for what processor."""
    parts = [(HERE / name).read_text(encoding="utf-8") for name in SOURCES + HEADERS]
    parts += [*FLAGS, real, platform.machine(), platform.system(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    # One node's binary must not be run by another node of the same file system with another chip.
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
