"""Shared fixtures: a sweep's folder made by hand, with records as a trainer writes them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from scalekit.counting import Shape, count_flops_per_token, count_params
from scalekit.results.record import SCHEMA, RecordWriter
from scalekit.results.store import SweepFolder

STEPS = 40

# Tests may be started by nohup, or by a shell in the background, which ignore these for them.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)


def plan_line(number: int, **train: Any) -> dict[str, Any]:
    """One run of a plan: sizes and tokens grow with the number."""
    layers = 1 + number % 3
    shape = Shape(32, layers, 2, 16, 2, 64, 256, 32)
    tokens = STEPS * 1024.0
    flops_per_token = count_flops_per_token(shape)
    return {
        "schema": "scalekit.plan/1",
        "id": f"{number:010x}",
        "config": {
            "model": {"arch": "gpt", "d_model": 32, "n_layers": layers, "context": 32},
            "data": {"source": "stdlib", "path": None},
            "train": {"tokens": tokens, "steps": STEPS, "batch_tokens": 1024, "lr": 1e-3}
            | {"seed": number}
            | train,
            "log": {"every": 10},
        },
        "plan": {
            "params": count_params(shape),
            "params_kind": "non_embedding",
            "flops_per_token": flops_per_token,
            "flops": {kind: value * tokens for kind, value in flops_per_token.items()},
            "flops_kind": "exact",
            "tokens": tokens,
            "steps": STEPS,
            "budget": 1e12 if number % 2 else None,
            "group": None,
            "estimate": 1.0 + number,
        },
        "resources": {"gpus": 0, "cpus": 1},
    }


def write_record(
    folder: SweepFolder,
    line: Mapping[str, Any],
    status: str | None = "done",
    *,
    stop_at: int = STEPS,
    loss: float = 2.0,
) -> Path:
    """Write a run's record as a trainer does; without status it stays without an end."""
    path = folder.record(line["id"])
    with RecordWriter(path) as record:
        facts = {"unique_tokens": 10**6, "entropy": 1.5, "oracle_val_loss": 1.51}
        record.write(
            "run",
            schema=SCHEMA,
            id=line["id"],
            config=line["config"],
            plan=line["plan"],
            facts=facts,
        )
        record.write("attempt", n=1, time="2026-01-01T00:00:00", code="1.0+abc", resumed_from=0)
        for step in range(10, stop_at + 1, 10):
            tokens = step * 1024
            record.write("step", step=step, tokens=tokens, loss=loss + 1 / step, lr=1e-3)
            record.write(
                "eval",
                step=step,
                tokens=tokens,
                flops=tokens * line["plan"]["flops_per_token"]["exact"],
                val_loss=loss + (STEPS - step) / STEPS,
                val_sem=0.01,
                val_bpb=loss / 0.6931,
            )
        if status is not None:
            record.write("end", status=status, wall_s=3.0, device_s=3.0, mfu=0.1, attempts=1)
    return path


class SweepMaker:
    """Makes sweeps' folders under one temporary path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plan_line = plan_line
        self.write_record = write_record

    def __call__(
        self, n_runs: int, name: str = "demo", **statuses: str | None
    ) -> tuple[SweepFolder, list[dict[str, Any]]]:
        """Make a planned sweep; `r3="done"` also writes the record of run 3 with that end."""
        folder = SweepFolder(self.root / name)
        lines = [plan_line(number) for number in range(n_runs)]
        folder.root.mkdir(parents=True)
        folder.plan_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for key, status in statuses.items():
            stop_at = STEPS if status in ("done", "pruned") else 20
            write_record(folder, lines[int(key[1:])], status, stop_at=stop_at)
        return folder, lines


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., tuple[SweepFolder, list[dict[str, Any]]]]:
    return SweepMaker(tmp_path)
