"""The wheel: what is in it, and that it works installed alone in a new environment."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import scalekit

ROOT = Path(__file__).parent.parent
DATA = (".j2", ".cpp", ".h")
"""What travels beside Python files, by suffix."""

PROBE = """\
scalekit: 1
name: probe
base: {model: {n_layers: 2, head_dim: 16}, data: {source: synthetic}}
isoflop: {budgets: [1e12], sizes: {d_model: [32, 64]}}
"""

pytestmark = [
    pytest.mark.slow,  # builds a wheel and an environment
    pytest.mark.skipif(
        not (ROOT / "pyproject.toml").is_file(), reason="the project's sources are not here"
    ),
]


def call(argv: Sequence[str | Path], cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in argv], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, with one example more."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("scalekit", "sweeps"):
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / "sweeps" / "base").mkdir(parents=True, exist_ok=True)
    (copy / "sweeps" / "probe.yaml").write_text(PROBE)
    (copy / "sweeps" / "base" / "probe.yaml").write_text("scalekit: 1\n")
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path) -> Path:
    # Without an index the backend has to be at hand; with one it is fetched into isolation.
    at_hand = importlib.util.find_spec("hatchling") is not None
    isolation = ["--no-isolation"] if at_hand else []
    call([sys.executable, "-m", "build", "--wheel", *isolation], sources)
    (path,) = (sources / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binaries of a new environment: the wheel, and the dependencies of this one beside it.

    A `.pth` file lends this environment's packages; those of an editable install of ours are not
    among them, because files named in a lent folder are not followed.
    """
    home = tmp_path_factory.mktemp("alone")
    venv.create(home, with_pip=False, symlinks=True)
    binaries = home / "bin"
    pip = [sys.executable, "-m", "pip", "--python", binaries / "python", "install"]
    call([*pip, "--quiet", "--no-deps", "--no-index", wheel], home)
    own = Path(call([binaries / "python", "-c", _PURELIB], home).strip())
    (own / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return binaries


_PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"


def test_the_wheel_holds_the_package_its_templates_and_every_example(
    sources: Path, wheel: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    package = {
        path.relative_to(sources).as_posix()
        for path in (sources / "scalekit").rglob("*")
        if path.suffix in (".py", *DATA)
    }
    examples = {
        f"scalekit/examples/{path.relative_to(sources / 'sweeps').as_posix()}"
        for path in (sources / "sweeps").rglob("*")
        if path.is_file()
    }
    assert any(name.endswith(DATA) for name in package)
    assert package <= packed
    assert {"scalekit/examples/probe.yaml", "scalekit/examples/base/probe.yaml"} <= examples
    assert examples <= packed
    # Nothing else: no tests, no caches, no notes.
    rest = {name for name in packed - package - examples if ".dist-info/" not in name}
    assert rest == set()


def test_the_wheel_is_named_apart_from_the_import_and_carries_its_licence(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        info = f"scalekit_laws-{scalekit.__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        entry = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert f"Name: {project['name']}\n" in metadata
    assert f"Version: {scalekit.__version__}\n" in metadata
    assert "scalekit = scalekit.cli:main" in entry


def test_the_wheel_alone_shows_its_help_and_lays_its_examples_out(
    alone: Path, tmp_path: Path
) -> None:
    found = call([alone / "python", "-c", "import scalekit; print(scalekit.__file__)"], tmp_path)
    assert Path(found.strip()).is_relative_to(alone.parent)
    command = alone / "scalekit"
    assert call([command, "--version"], tmp_path).strip() == scalekit.__version__
    assert "sweep" in call([command, "--help"], tmp_path)
    assert "wrote" in call([command, "init", "study"], tmp_path)
    assert (tmp_path / "study" / "sweeps" / "base" / "probe.yaml").is_file()
    planned = call([command, "sweep", "study/sweeps/probe.yaml", "-n"], tmp_path)
    assert "probe: 2 runs" in planned


def test_every_template_and_example_can_be_read_from_the_installed_wheel(
    alone: Path, tmp_path: Path
) -> None:
    code = (
        "from pathlib import Path; import scalekit; home = Path(scalekit.__file__).parent\n"
        "names = [p for p in home.rglob('*') if p.suffix in ('.j2', '.yaml')]\n"
        "assert all(p.read_text().strip() for p in names); print(len(names))"
    )
    assert int(call([alone / "python", "-c", code], tmp_path)) >= 3
