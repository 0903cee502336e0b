"""Every way to train, once on a GPU beside the same run on the CPU: `pytest -m gpu`.

No machine of this project's has had one yet; who has is asked to run this first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from scalekit import registry
from scalekit.models.base import build_seeded
from scalekit.results.record import RunRecord, read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunConfig, RunSpec
from scalekit.train.device import Device
from scalekit.train.gradients import gradients_of
from scalekit.train.loop import Learner
from scalekit.train.optimizer import build_optimizer
from scalekit.train.recorded import WARM_STEPS
from scalekit.train.run import train_run
from scalekit.train.spread import Spread
from scalekit.train.stacked_run import train_stack
from scalekit.train.stop import StopRequest
from scalekit.train.team import SOLO

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.filterwarnings("default"),  # torch's own about a GPU are no failures of ours
]

# Sums in another order, over a dozen steps; bfloat16 has eight bits.
CLOSE, ROUGH = 1e-3, 5e-2
STEPS = WARM_STEPS + 9
MODEL = {"mlp": "swiglu", "n_kv_heads": 1}


def trained(spec: RunSpec, root: Path, device: str) -> RunRecord:
    folder = SweepFolder(root / device)
    assert train_run(spec, folder, device=device) == "done"
    return read_record(folder.record(spec.id))


def losses(record: RunRecord) -> list[float]:
    return [x["loss"] for x in record.steps] + [x["val_loss"] for x in record.evals]


@pytest.mark.parametrize(
    ("train", "resources", "within"),
    [
        ({}, {}, CLOSE),
        ({}, {"micro_batch_tokens": 48}, CLOSE),
        ({}, {"recompute": "blocks"}, CLOSE),
        ({}, {"cuda_graph": True}, CLOSE),
        ({}, {"cuda_graph": True, "recompute": "mlps", "micro_batch_tokens": 48}, CLOSE),
        ({}, {"compile": "blocks"}, CLOSE),
        ({"schedule": "constant", "average_frac": 0.3}, {}, CLOSE),
        ({"optimizer": "muon"}, {"cuda_graph": True}, ROUGH),
        ({"dtype": "bfloat16"}, {}, ROUGH),
        ({"dtype": "bfloat16"}, {"cuda_graph": True}, ROUGH),
        ({"dtype": "bfloat16"}, {"compile": "blocks", "cuda_graph": True}, ROUGH),
    ],
    ids=str,
)
def test_a_run_on_a_gpu_has_the_losses_of_the_cpu(
    planned, tmp_path: Path, train: dict[str, Any], resources: dict[str, Any], within: float
) -> None:
    spec = replace(planned(model=MODEL, train={"steps": STEPS, **train}), resources=resources)
    here, there = trained(spec, tmp_path, "cpu"), trained(spec, tmp_path, "cuda")
    assert losses(there) == pytest.approx(losses(here), rel=within)
    assert there.end is not None
    assert there.end["peak_memory_bytes"] > 0


@pytest.mark.parametrize("resources", [{}, {"cuda_graph": True}], ids=str)
def test_a_stack_on_a_gpu_has_the_losses_of_its_runs_alone(
    planned, tmp_path: Path, resources: dict[str, Any]
) -> None:
    specs = [
        replace(planned(f"{i:010x}", train={"steps": STEPS, "seed": i}), resources=resources)
        for i in range(3)
    ]
    folder = SweepFolder(tmp_path / "stack")
    assert set(train_stack(specs, folder, device="cuda").values()) == {"done"}
    for spec in specs:
        found = losses(read_record(folder.record(spec.id)))
        assert found == pytest.approx(losses(trained(spec, tmp_path, "cpu")), rel=CLOSE)


def test_a_run_that_was_stopped_on_a_gpu_goes_on_there(planned, tmp_path: Path) -> None:
    spec, stop = planned(train={"steps": STEPS}), StopRequest()
    expected = trained(spec, tmp_path, "cpu")

    def report(line: str) -> None:
        if line.startswith(f"step 5/{STEPS}"):
            stop.signal = 15

    folder = SweepFolder(tmp_path / "cuda")
    assert train_run(spec, folder, device="cuda", stop=stop, report=report) == "stopped"
    assert losses(trained(spec, tmp_path, "cuda")) == pytest.approx(losses(expected), rel=CLOSE)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_on_a_gpu_waits_for_nothing_and_makes_no_square_of_scores(planned, dtype) -> None:
    spec = planned(model={"mlp": "swiglu"}, train={"dtype": dtype})
    model = build_seeded(registry.find("models", "gpt"), spec.config["model"], 0)
    device = Device(torch.device("cuda"), dtype)
    model.to(device.torch)
    train = RunConfig.model_validate(spec.config).train
    gradients = gradients_of(model, device, Spread(SOLO, False, "none", 8, 8, 16), lambda n: None)
    learner = Learner(model, build_optimizer(model, train), device, 1.0, gradients)
    tokens = torch.zeros(8, 16, dtype=torch.int64, device=device.torch)
    fused = [
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
    ]
    with sdpa_kernel(fused):
        learner.learn(tokens, tokens, 1e-3)  # chooses kernels
        with waiting_is_an_error():
            learner.learn(tokens, tokens, 1e-3)
