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
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), re.S | re.M)
    return [block for name, block in found if name == language]


def in_shell(block: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    argv = ["bash", "-e", "-c", block]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_every_sh_block_runs_in_order(tmp_path: Path) -> None:
    assert len(blocks("sh")) >= 2
    for block in blocks("sh"):
        done = in_shell(block, tmp_path)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "fit.json").is_file()
    assert list((tmp_path / "figures").glob("*.png"))


SMALL = """\
scalekit: 1
name: quickstart
base:
  model: {n_layers: 1, d_model: 8, n_heads: 1, context: 16}
  data: {source: synthetic}
  train: {batch_tokens: 64, lr: 0.01}
isoflop:
  budgets: [1e8, 2e8, 4e8]
  sizes: {d_model: [8, 12, 16, 24]}
  tolerance: 10%
"""


@pytest.mark.slow
def test_the_sweep_block_trains_and_reports_a_small_sweep_in_place_of_the_shipped_one(
    tmp_path: Path,
) -> None:
    (block,) = [b for b in blocks("") if "sweep" in b and "--wait" in b]
    (tmp_path / "study/sweeps").mkdir(parents=True)
    (tmp_path / "study/sweeps/quickstart.yaml").write_text(SMALL)
    done = in_shell(block, tmp_path)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert "12 done" in done.stdout
    assert (tmp_path / "report/report.html").is_file()


@pytest.mark.parametrize("family", ["commands", "laws", "plots", "executors"])
def test_every_member_that_a_user_can_name_is_in_the_readme(family: str) -> None:
    from scalekit import registry

    text = README.read_text()
    names = [n.replace("_", "-") if family == "commands" else n for n in registry.names(family)]
    assert [name for name in names if f"`{name}`" not in text] == []


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
