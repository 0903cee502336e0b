"""Small runs of every kind that a kill or a full disk must not change."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from curves import curve
from deaths import dying_at

from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.run import train_run

# A step line means over three steps and a checkpoint falls in the middle of them.
LOG = {"every": 3, "evals": 2, "checkpoint_steps": 2}
STEPS = {"steps": 7}

CASES: dict[str, dict[str, Any]] = {
    "swiglu, untied, cosine, a graph walk": {"model": {"mlp": "swiglu"}},
    "tied, wsd, the standard library": {
        "model": {"mlp": "swiglu", "tied": True, "vocab": 256},
        "data": {"source": "stdlib"},
        "train": {"schedule": "wsd", "decay_frac": 0.5},
    },
    "relu2, grouped queries, mup, wsd by the root, a spectrum": {
        "model": {"n_kv_heads": 1, "parametrization": "mup", "base_width": 8},
        "data": {"synthetic": {"kind": "specbigram", "symbols": 64}},
        "train": {"schedule": "wsd", "decay_shape": "sqrt", "decay_frac": 0.5},
    },
    "gelu, tied, no query norm, three epochs": {
        "model": {"mlp": "gelu", "tied": True, "qk_norm": False},
        "data": {"unique_tokens": 320, "max_epochs": 3.0},
        "train": {"schedule": "constant"},
    },
    "muon, swiglu, grouped queries": {
        "model": {"mlp": "swiglu", "n_kv_heads": 1},
        "train": {"optimizer": "muon", "schedule": "inverse_sqrt"},
    },
    "completep, deeper than its base": {
        "model": {"parametrization": "completep", "base_width": 8, "base_depth": 1},
    },
    "bfloat16": {"model": {"mlp": "swiglu"}, "train": {"dtype": "bfloat16"}},
}
# What may ask a run to stop, and the exit code that says so.
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGUSR2, 143), (signal.SIGINT, 130)]


def small(planned: Callable[..., RunSpec], case: Mapping[str, Any], **train: Any) -> RunSpec:
    parts = {**case, "train": {**STEPS, **case.get("train", {}), **train}}
    return planned(**{"log": LOG, **parts})


def uninterrupted(spec: RunSpec, root: Path) -> dict[str, Any]:
    folder = SweepFolder(root / "uninterrupted")
    assert train_run(spec, folder, device="cpu") == "done"
    return curve(folder.record(spec.id))


def operations(spec: RunSpec, root: Path) -> list[str]:
    """List what a run of this spec does to the disk."""
    with dying_at(None) as done:
        train_run(spec, SweepFolder(root / "listed"), device="cpu")
    return done
