"""Compiled layers: the plain way's numbers, one graph for all layers, refusals by name."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scalekit import registry
from scalekit.errors import InputError
from scalekit.models._cpu.build import COMPILERS
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.train.device import choose_device
from scalekit.train.lora import Lora
from scalekit.train.regional import compile_layers
from scalekit.train.run import train_run
from scalekit.train.spread import recompute_activations, shard_model
from scalekit.train.team import Team

# Looking at what it is given, the compiler asks tensors for more than they have.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")

TOLERANCE = 1e-5
"""float32 rounds at 1.2e-7; other orders of sums over tens of numbers, of the largest entry."""
ADAPTERS = pytest.mark.filterwarnings(
    # Torch's compiler does what its own warning says one should not.
    "ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning"
)
COMPLETEP = {"parametrization": "completep", "base_width": 8, "base_depth": 1}


@pytest.fixture
def built(planned) -> Callable[..., LanguageModel]:
    def build(**model: Any) -> LanguageModel:
        config = planned(model={"mlp": "swiglu", "n_kv_heads": 1, **model}).config["model"]
        return build_seeded(registry.find("models", "gpt"), config, seed=0)

    return build


def batch(n_rows: int = 3) -> tuple[Tensor, Tensor]:
    rows = torch.randint(64, (n_rows, 17), generator=torch.Generator().manual_seed(0))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def learn(model: LanguageModel, n_rows: int = 3) -> dict[str, Tensor]:
    """Return loss and gradients by autograd; the CPU's own kernels would compute no layer."""
    loss = LanguageModel.gradients(model, *batch(n_rows), nullcontext())
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss, **gradients}


def assert_equal_numbers(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[name], value, rtol=0, atol=TOLERANCE * scale, msg=name)


def count_graphs(model: LanguageModel, *batches: int, recompute: str = "none") -> int:
    from torch._dynamo.utils import counters

    counters.clear()
    compile_layers(model, backend="eager")
    recompute_activations(model, recompute)
    for n_rows in batches:
        learn(model, n_rows)
    with torch.inference_mode():
        LanguageModel.loss(model, *batch(5))
    return counters["stats"]["unique_graphs"]


def test_graphs_do_not_grow_with_layers_and_evaluation_adds_none(built) -> None:
    assert [count_graphs(built(n_layers=n, **COMPLETEP), 3, 3) for n in (2, 5)] == [1, 1]
    assert count_graphs(built(n_layers=1), 3, 2, 3) == 2  # one more for another number of rows


@ADAPTERS
def test_graphs_do_not_grow_with_layers_that_have_adapters(built) -> None:
    every = [Lora(built(n_layers=n), ("q", "up"), rank=2, alpha=2.0, seed=0) for n in (2, 5)]
    # One for the first layer, below which nothing learns, and one for all others.
    assert [count_graphs(lora, 3, 3) for lora in every] == [2, 2]


@pytest.mark.parametrize("recompute", ["mlps", "blocks"])
def test_graphs_do_not_grow_with_what_is_computed_again(built, recompute: str) -> None:
    assert count_graphs(built(n_layers=3), 3, recompute=recompute) == 1


@ADAPTERS
@pytest.mark.parametrize(("adapters", "recompute"), [(False, "none"), (True, "blocks")])
def test_the_real_rotation_and_the_wrapping_change_no_number(
    built, *, adapters: bool, recompute: str
) -> None:
    """What the compiler is given, run as it stands."""

    def make() -> LanguageModel:
        model = built()
        return Lora(model, ("q", "up"), rank=2, alpha=2.0, seed=0) if adapters else model

    compiled = make()
    names = [name for name, _ in compiled.named_parameters()]
    compile_layers(compiled, backend="eager")
    recompute_activations(compiled, recompute)
    assert [name for name, _ in compiled.named_parameters()] == names
    assert_equal_numbers(learn(compiled), learn(make()))


@pytest.mark.parametrize("recompute", ["none", "mlps", "blocks"])
def test_layers_that_lie_in_parts_are_compiled_once_and_change_no_number(
    built, alone: Team, recompute: str
) -> None:
    """Parts are gathered and given back around the compiled code, also in its backward pass."""
    from torch._dynamo.utils import counters

    counters.clear()
    model = built(n_layers=3)
    compile_layers(model, backend="aot_eager")
    recompute_activations(model, recompute)
    shard_model(model, alone, choose_device("cpu", "float32"), "adamw")
    learn(model)
    found = learn(model)
    assert counters["stats"]["unique_graphs"] == 1
    whole = {n: getattr(t, "full_tensor", lambda t=t: t)() for n, t in found.items()}
    assert_equal_numbers(whole, learn(built(n_layers=3)))


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="no C++ compiler, which torch.compile needs"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_layers_give_the_losses_and_gradients_of_the_plain_way(
    built, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    # Finding out which vectors the processor has takes longer than all the rest.
    monkeypatch.setattr(config.cpp, "simdlen", 1)
    monkeypatch.setattr(config, "compile_threads", 1)
    compiled = built(n_layers=3, **COMPLETEP)
    compile_layers(compiled)
    assert_equal_numbers(learn(compiled), learn(built(n_layers=3, **COMPLETEP)))


def test_a_compiler_that_refuses_is_named_with_what_to_do(built) -> None:
    def refuse(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler found")

    model = built()
    compile_layers(model, backend=refuse)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"resources.compile: .*no compiler found.*leave compile"):
        learn(model)


def test_a_request_to_stop_does_not_reach_what_the_compiler_starts(built) -> None:
    """A run is told with all that it started, and failed of a compiler that ended."""

    def compiler(graph: Any, inputs: Any) -> Callable[..., Any]:
        subprocess.run(["sh", "-c", "kill -TERM $$; kill -USR2 $$; kill -INT $$"], check=True)
        return graph.forward

    model = built()
    compile_layers(model, backend=compiler)  # type: ignore[arg-type]
    assert learn(model)["loss"].isfinite()


def test_a_model_without_layers_that_are_alike_is_refused(built, monkeypatch) -> None:
    model = built()
    monkeypatch.setattr(model, "layers", list)
    with pytest.raises(InputError, match=r"resources.compile: this model has no layers"):
        compile_layers(model)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_run_says_what_of_it_is_compiled(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    made = partial(compile_layers, backend="eager")
    monkeypatch.setattr("scalekit.train.attempt.compile_layers", made)
    curves = []
    for name, needs in (("plain", {}), ("compiled", {"compile": "blocks"})):
        spec = replace(planned(train={"dtype": dtype, "steps": 4}), resources=needs)
        folder = SweepFolder(tmp_path / name)
        assert train_run(spec, folder, device="cpu") == "done"
        record = read_record(folder.record(spec.id))
        curves.append([line["loss"] for line in record.steps])
        (attempt,) = record.attempts
        # The kernels compute no layer, so nothing is compiled beside them.
        by_kernels = attempt["computed_by"] == "kernels" and dtype == "float32"
        assert attempt["compile"] == (None if by_kernels else needs.get("compile", "none"))
    # bfloat16 rounds at 4e-3; the rotation is then the only thing that rounds otherwise.
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
