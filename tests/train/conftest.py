"""A small planned run, and one thread for torch: small tensors gain nothing from more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from curves import write_plan
from small_runs import small, uninterrupted

from scalekit.counting import count_flops_per_token, count_params
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunConfig, RunSpec, shape_of
from scalekit.train.team import Team

MODEL = {
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 2,
    "n_kv_heads": 2,
    "head_dim": 8,
    "d_ff": 32,
    "mlp": "relu2",
    "vocab": 64,
    "context": 16,
}
DATA = {
    "source": "synthetic",
    "val_tokens": 512,
    "synthetic": {"kind": "graphwalk", "symbols": 64, "degree": 10},
}
TRAIN = {"batch_tokens": 128, "steps": 12, "lr": 1e-2, "seed": 0}
LOG = {"every": 1, "evals": 3}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def quick_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of attempts need neither ask git each time nor wait for the disk."""
    monkeypatch.setattr("scalekit.train.provenance.code_state", lambda: "test")
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.fixture(scope="session")
def planned() -> Callable[..., RunSpec]:
    """Make a run from changes to a small one, given a part at a time."""
    return plan


def plan(run_id: str = "0123456789", **parts: Any) -> RunSpec:
    model = {**MODEL, **parts.get("model", {})}
    train = {**TRAIN, **parts.get("train", {})}
    train.setdefault("tokens", train["steps"] * train["batch_tokens"])
    config = RunConfig.model_validate(
        {
            "model": model,
            "data": {**DATA, **parts.get("data", {})},
            "train": train,
            "start": parts.get("start", {}),
            "log": {**LOG, **parts.get("log", {})},
            "eval": parts.get("eval", {}),
        }
    ).model_dump(mode="json")
    shape = shape_of(config["model"])
    per_token = count_flops_per_token(shape)
    numbers = {
        "params": count_params(shape),
        "flops_per_token": per_token,
        "flops": {kind: flops * train["tokens"] for kind, flops in per_token.items()},
        "flops_kind": "exact",
        "params_kind": "non_embedding",
        "tokens": train["tokens"],
        "steps": train["steps"],
    }
    return RunSpec(run_id, config, numbers, {})


@pytest.fixture
def alone() -> Iterator[Team]:
    """A team of one that shards as one of several does: it gathers from itself."""
    import torch.distributed as dist

    store = getattr(dist, "HashStore")()  # noqa: B009 (not in the stubs)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield Team()
    dist.destroy_process_group()


@pytest.fixture
def spec(planned) -> RunSpec:
    """A run of seven steps with three checkpoints."""
    return small(planned, {})


@pytest.fixture
def folder(tmp_path: Path, spec: RunSpec) -> SweepFolder:
    """A sweep's folder in which it is planned."""
    return write_plan(tmp_path / "sweep", spec)


@pytest.fixture
def expected(tmp_path: Path, spec: RunSpec) -> dict[str, Any]:
    """What its record says when nothing comes in between."""
    return uninterrupted(spec, tmp_path)


@pytest.fixture
def command(folder: SweepFolder, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line that trains the run; it leaves the test process's memory alone."""
    monkeypatch.setattr("scalekit.train.device.keep_freed_memory", lambda: True)
    return ["train", str(folder.root), spec.id, "--device", "cpu"]
