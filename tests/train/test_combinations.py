"""Many features at once: a ladder of them, killed and continued, is what its rungs are alone."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from curves import curve
from deaths import Death, dying_at
from ladders import own_lines

from scalekit.cli import run
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.start import weights_file
from scalekit.train.checkpoint import read_tensors

MODEL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context": 8, "vocab": 40}
PARENT = {"train": {"steps": 2, "batch_tokens": 16}, "log": {"keep_weights": True}}
RUNG = {"schedule": "wsd", "warmup_tokens": 24, "decay_frac": 0.4, "lr": 1e-2, "batch_tokens": 24}
LOG = {"every": 2, "evals": 2, "checkpoint_steps": 3, "keep_weights": True}
RUNGS = [4, 9]
"""Steps; a batch of three rows, so that no part of it is even."""

TOGETHER: dict[str, dict[str, Any]] = {
    "adapters, a mean of weights, a mixture with tasks, tied, mup": {
        "model": {"mlp": "swiglu", "tied": True, "parametrization": "mup", "base_width": 8},
        "data": {"source": "mixture", "weights": "web=0.7, code=0.3"},
        "train": {"average_frac": 0.2},
        "start": {"method": "lora", "targets": ["all"], "rank": 2},
        "eval": {"tasks": ["words.jsonl"], "tasks_at": "every"},
    },
    "a full start, muon, a few rows in many epochs, grouped queries, no query norm": {
        "model": {"mlp": "relu2", "n_kv_heads": 1, "qk_norm": False},
        "data": {"source": "shards", "path": "web", "unique_tokens": 17},
        "train": {"optimizer": "muon", "average_frac": 0.5, "decay_shape": "sqrt"},
        "start": {"method": "full"},
    },
    "adapters in bfloat16, some rows at once, completep": {
        "model": {"mlp": "gelu", "parametrization": "completep", "base_width": 8, "base_depth": 2},
        "data": {"source": "shards", "path": "code"},
        "train": {"dtype": "bfloat16"},
        "start": {"method": "lora", "targets": ["q", "up"]},
        "needs": {"micro_batch_tokens": 8},
    },
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_attempts: None) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scalekit.train.device.keep_freed_memory", lambda: True)
    for seed, name in enumerate(("code", "web")):
        (tmp_path / name).mkdir()
        for split in ("train", "val"):
            tokens = np.random.default_rng(seed).integers(40, size=200, dtype=np.uint16)
            tokens.tofile(tmp_path / name / f"{split}.bin")
    item = {"context": [1, 2], "choices": [[3], [4, 5]], "answer": 0}
    (tmp_path / "words.jsonl").write_text(f"{json.dumps(item)}\n" * 3)
    return tmp_path


def sweep(name: str, base: dict[str, Any], **rest: Any) -> SweepFolder:
    """Train a sweep where it stands, in this process."""
    whole = {"scalekit": 1, "name": "together", "base": base, **rest}
    file = Path(f"{name}.yaml")
    file.write_text(yaml.safe_dump(whole))
    words = ["-y", "-e", "inline", "--allow-unidentified", "--out", name]
    assert run(["sweep", str(file), *words]) == 0
    return SweepFolder(Path(name))


def ends(folder: SweepFolder, branches: dict[str, int]) -> dict[str, Any]:
    """Return what each run wrote of its start and behind its trunk's steps, and its weights."""
    found = {}
    for run_id, step in branches.items():
        weights = read_tensors(weights_file(folder.root, run_id), torch.device("cpu"))["model"]
        path = folder.record(run_id)
        found[run_id] = (
            own_lines(path, step),
            read_record(path).start,
            curve(path)["run"]["facts"],
            {name: tensor.tolist() for name, tensor in weights.items()},
        )
    return found


# torch's own kernel of RMSNorm takes no float32 gain on bfloat16 heads and says so once.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("name", TOGETHER)
def test_a_ladder_of_many_features_killed_anywhere_is_what_its_rungs_are_alone(
    here: Path, name: str
) -> None:
    case = TOGETHER[name]
    data = {"path": ".", "val_tokens": 24, "max_epochs": 99, **case["data"]}
    base = {"model": {**MODEL, **case["model"]}, "data": data}
    sweep("parent", {**base, **PARENT})
    base |= {"train": {**RUNG, **case["train"]}, "log": LOG, "eval": case.get("eval", {})}
    base["start"] = {"folder": "parent", **case["start"]}
    needs = {"resources": [case["needs"]]} if "needs" in case else {}
    alone = sweep("alone", base, grid={"train.steps": RUNGS}, **needs)
    with dying_at(None) as done:
        whole = sweep("whole", base, ladder={"steps": RUNGS}, **needs)
    branches = {line["id"]: line["plan"].get("branch_step", 0) for line in whole.plan_lines()}
    assert sorted(branches.values()) == [0, 2]
    expected = ends(alone, branches)
    assert ends(whole, branches) == expected
    # Behind files that were written whole: the trunk's first checkpoint, then any.
    draw, whole_files = random.Random(name), [k for k, what in enumerate(done) if what == "replace"]
    for number in (whole_files[3], draw.choice(whole_files)):
        with suppress(Death), dying_at(2 * number + 2):
            sweep("killed", base, ladder={"steps": RUNGS}, **needs)
    killed = sweep("killed", base, ladder={"steps": RUNGS}, **needs)
    assert ends(killed, branches) == expected
