"""The house's rules: floors, wings, where heavy packages may be imported, closed fronts."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scalekit
from scalekit import registry

ROOT = Path(scalekit.__file__).parent

FLOORS = {
    "cli": 9,
    "__main__": 10,
    "commands": 8,
    "plots": 7,
    "reports": 7,
    "analysis": 6,
    "fit": 5,
    "launch": 5,
    "train": 5,
    "prepare": 5,
    "results": 4,
    "models": 4,
    "datasets": 4,
    "tasks": 4,
    "importers": 3,
    "sweep": 3,
    "config": 2,
    "laws": 1,
    "hyperparameters": 1,
    "quantities": 1,
    "registry": 1,
    "executors": 1,
    "documents": 1,
    "tokenizers": 1,
    "loggers": 1,
    "errors": 0,
    "counting": 0,
    "peaks": 0,
    "footprint": 0,
    "signals": 0,
    "__init__": 0,
}
RUNNING = {
    *("sweep", "launch", "executors", "loggers", "train", "models", "datasets", "tasks"),
    *("documents", "tokenizers", "prepare"),
}
READING = {"laws", "fit", "analysis", "plots", "reports", "importers"}
MAY_IMPORT = {
    "torch": {"train", "models", "datasets"},
    "submitit": {"executors/slurm"},
    "scipy": {"fit", "analysis"},
    "matplotlib": {"plots"},
    "tokenizers": {"tokenizers"},
    "tiktoken": {"tokenizers"},
    "datasets": {"documents"},
}
FAMILIES = tuple(registry.MEMBER)
HEAVY = ("torch", "pandas", "scipy", "matplotlib", "numpy")


def files() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if "__pycache__" not in p.parts)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module a file imports (`scalekit.x.y` or a package's name), and whether at its top."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                is_module = module.startswith("scalekit") and is_ours(whole)
                found.append((whole if is_module else module, id(node) in top))
    return found


def is_ours(module: str) -> bool:
    path = ROOT.parent.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def ours(path: Path) -> list[str]:
    """The scalekit modules a file imports, without the leading `scalekit.`."""
    names = [m for m, _ in imports(path) if m == "scalekit" or m.startswith("scalekit.")]
    return [m.removeprefix("scalekit").lstrip(".") or "__init__" for m in names]


ALL = pytest.mark.parametrize("path", files(), ids=name_of)


@ALL
def test_imports_point_down_the_floors(path: Path) -> None:
    here = room(name_of(path))
    for target in ours(path):
        there = room(target)
        assert there in FLOORS, f"{there} has no floor"
        assert there == here or FLOORS[there] < FLOORS[here], f"{here} imports {target}"


@ALL
def test_the_wings_meet_only_in_results(path: Path) -> None:
    here = room(name_of(path))
    for target in ours(path):
        there = room(target)
        assert not (here in READING and there in RUNNING), f"{here} imports {target}"
        assert not (here in RUNNING and there in READING), f"{here} imports {target}"


@ALL
def test_heavy_packages_stay_in_their_rooms(path: Path) -> None:
    here = name_of(path).replace(".", "/")
    for module, _ in imports(path):
        package = module.split(".")[0]
        if package in MAY_IMPORT:
            allowed = MAY_IMPORT[package]
            assert here in allowed or room(name_of(path)) in allowed, f"{here} imports {package}"


@ALL
def test_a_base_and_a_front_never_import_members(path: Path) -> None:
    here = name_of(path)
    if not here.endswith(("base", "__init__")):
        return
    family = here.rpartition(".")[0]
    for target in ours(path):
        inside = family in FAMILIES and target.startswith(f"{family}.")
        assert not inside or target.endswith("base"), f"{here} imports {target}"
    if here.endswith("__init__"):
        assert not ours(path), f"{here} imports {ours(path)}"


def test_there_are_no_import_circles() -> None:
    edges = {name_of(p): {t for t in ours(p) if t != name_of(p)} for p in files()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module in done:
            return
        for target in sorted(edges.get(module, ())):
            visit(target, (*trail, module))
        done.add(module)

    for module in sorted(edges):
        visit(module, ())


def test_every_room_has_a_floor() -> None:
    assert {room(name_of(p)) for p in files()} <= set(FLOORS)


def loaded_after(argv: list[str], folder: Path) -> set[str]:
    """The heavy packages in `sys.modules` after a command ran in a fresh process."""
    code = (
        "import sys; from scalekit.cli import run; code = run(sys.argv[1:]); "
        f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1].split()
    assert last[0] == "LOADED"
    return set(last[1:])


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    assert loaded_after(["--help"], tmp_path) == set()
