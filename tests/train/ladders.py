"""A small ladder as a sweep plans it, and what a record says of steps that are a run's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from curves import curve

from scalekit.results.store import SweepFolder
from scalekit.sweep.expand import expand
from scalekit.sweep.load import load_sweep
from scalekit.sweep.spec import RunSpec

BASE = {
    "model": {"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp": "relu2", "context": 16},
    "data": {
        "source": "synthetic",
        "val_tokens": 512,
        "synthetic": {"kind": "graphwalk", "symbols": 64, "degree": 10},
    },
    "train": {
        "batch_tokens": 128,
        "schedule": "wsd",
        "warmup_tokens": 256,
        "decay_frac": 0.25,
        "lr": 1e-2,
    },
    "log": {"every": 3, "evals": 2, "checkpoint_steps": 4},
}
RUNGS = [8, 12, 20]
"""Steps; the plateaus end at 6 and 9, off the steps with lines and checkpoints, and at 15."""


def plan(
    root: Path,
    *,
    is_ladder: bool = True,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    needs: Mapping[str, Any] | None = None,
) -> tuple[SweepFolder, list[RunSpec]]:
    """Plan the rungs in a folder, as a ladder or as separate runs: the trunk is the last."""
    changes = changes or {}
    base = {section: {**BASE[section], **changes.get(section, {})} for section in BASE}
    rungs = {"ladder": {"steps": RUNGS}} if is_ladder else {"grid": {"train.steps": RUNGS}}
    root.mkdir(parents=True)
    file = root / "ladder.yaml"
    asked = {"resources": [dict(needs)]} if needs else {}
    sweep = {"scalekit": 1, "name": "ladder", "base": base, **rungs, **asked}
    file.write_text(yaml.safe_dump(sweep))
    runs = list(expand(load_sweep(file)).runs)
    folder = SweepFolder(root)
    folder.plan_file.write_text("".join(json.dumps(run.to_json()) + "\n" for run in runs))
    return folder, runs


def own_lines(path: Path, after: int) -> dict[str, Any]:
    """Return what a record says of the steps after one, and how the run ended."""
    whole = curve(path)
    lines = {t: [line for line in whole[t] if line["step"] > after] for t in ("step", "eval")}
    # The last evaluation is a run's own even where all its steps are its trunk's.
    return {**lines, "last": whole["eval"][-1], "end": whole["end"]}
