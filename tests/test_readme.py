"""The README's runnable blocks run, in order, as a user would type them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scalekit

CHECKOUT = Path(scalekit.__file__).parents[1]
README = CHECKOUT / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.S | re.M)


def test_every_sh_block_runs_in_order(tmp_path: Path) -> None:
    assert len(blocks("sh")) >= 2
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for block in blocks("sh"):
        done = subprocess.run(
            ["bash", "-e", "-c", block],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "fit.json").is_file()
    assert list((tmp_path / "figures").glob("*.png"))


def test_every_command_is_in_the_readme() -> None:
    from scalekit import registry

    text = README.read_text()
    missing = [n for n in registry.names("commands") if f"`{n.replace('_', '-')}`" not in text]
    assert not missing


@pytest.mark.parametrize("name", re.findall(r"\]\((?!http)([^)]+)\)", README.read_text()))
def test_every_local_link_leads_somewhere(name: str) -> None:
    assert (CHECKOUT / name).exists()


@pytest.mark.parametrize("path", sorted((CHECKOUT / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_sweep_expands_to_runs_on_several_rays(path: Path) -> None:
    from scalekit.sweep.expand import expand
    from scalekit.sweep.load import load_sweep

    runs = expand(load_sweep(path)).runs
    rays = {round(r.plan["tokens"] / r.plan["params"]["non_embedding_head"]) for r in runs}
    assert len(runs) >= 20
    assert len(rays) >= 5
