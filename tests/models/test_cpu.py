"""The kernels against autograd in float64, and what happens where they cannot be had."""

from __future__ import annotations

import copy
import ctypes
import os
import re
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scalekit import registry
from scalekit.counting import MLPS
from scalekit.models._cpu import build, calls, step
from scalekit.models._cpu.step import CpuStep
from scalekit.models._parts import NORM_EPS, rotation_angles
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.models.gpt import GPT

try:
    build.load()
    REASON = ""
except build.KernelsUnavailableError as error:
    REASON = str(error)
needs_kernels = pytest.mark.skipif(bool(REASON), reason=f"no kernels: {REASON}")


def gpt(dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any) -> GPT:
    """A small model whose gains are away from one and whose rotation is as exact as its numbers."""
    base: dict[str, Any] = {
        "d_model": 16,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "head_dim": 4,
        "d_ff": 24,
        "vocab": 11,
        "context": 9,
        "mlp": "swiglu",
        "tied": False,
        "qk_norm": True,
        "rope_theta": 10000.0,
        "parametrization": "standard",
        "base_width": None,
        "base_depth": None,
    }
    module = build_seeded(registry.find("models", "gpt"), {**base, **changes}, seed)
    assert isinstance(module, GPT)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    angles = rotation_angles(module.shape.context, module.shape.head_dim, module.rope_theta)
    turned = torch.polar(torch.ones_like(angles), angles).unsqueeze(1)
    module.rotation = turned if dtype == torch.float64 else turned.to(torch.complex64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def batch(module: GPT, n_rows: int = 3, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n_rows, module.shape.context)
    tokens, targets = torch.randint(module.shape.vocab, (2, *shape), generator=generator)
    return tokens, targets


@needs_kernels
def test_gradients_lie_in_one_tensor_even_if_the_model_was_evaluated_first() -> None:
    """Else their norm is summed in another order, and a run evaluated at its start differs."""
    module = gpt(torch.float32)
    with torch.inference_mode():
        module.loss(*batch(module))
    module.gradients(*batch(module), nullcontext())
    wholes = {id(p.grad._base) for p in module.parameters() if p.grad is not None}
    assert len(wholes) == 1
    assert id(None) not in wholes


def fast(module: GPT) -> CpuStep:
    angles = rotation_angles(module.shape.context, module.shape.head_dim, module.rope_theta)
    real = "double" if module.embedding.dtype == torch.float64 else "float"
    return CpuStep(module, build.load(real), angles, NORM_EPS)


def by_autograd(module: GPT, tokens: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
    loss = LanguageModel.gradients(module, tokens, targets, nullcontext())
    return {"loss": loss, **copies(module)}


def by_kernels(module: GPT, tokens: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
    loss = fast(module).gradients(tokens, targets)
    return {"loss": loss, **copies(module)}


def copies(module: GPT) -> dict[str, torch.Tensor]:
    grads = {name: p.grad for name, p in module.named_parameters()}
    return {name: grad.clone() for name, grad in grads.items() if grad is not None}


# What is left after thirteen digits of a loss and gradients of order one is rounding alone.
RTOL, ATOL = 1e-10, 1e-13


def assert_equal_numbers(
    found: dict[str, Any], expected: dict[str, Any], rtol: float = RTOL, atol: float = ATOL
) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


@needs_kernels
@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_every_gradient_is_that_of_autograd(
    mlp: str, qk_norm: bool, n_kv_heads: int, tied: bool
) -> None:
    module = gpt(mlp=mlp, qk_norm=qk_norm, n_kv_heads=n_kv_heads, tied=tied)
    assert_equal_numbers(by_kernels(module, *batch(module)), by_autograd(module, *batch(module)))


@needs_kernels
@pytest.mark.parametrize(
    "shape",
    [
        {"d_model": 13, "d_ff": 7, "vocab": 17},
        {"head_dim": 2, "context": 2},
        {"head_dim": 10, "context": 61},
        {"head_dim": 16, "context": 100, "n_heads": 2, "n_kv_heads": 1},
        {"d_model": 1, "d_ff": 1, "n_layers": 1},
        {"parametrization": "mup", "base_width": 5},
        {"parametrization": "mup", "base_width": 5, "tied": True},
        {"parametrization": "completep", "base_width": 5, "base_depth": 1},
    ],
    ids=str,
)
def test_sizes_that_fill_no_vector_or_no_tile_are_computed_too(shape: dict[str, Any]) -> None:
    module = gpt(**shape)
    assert_equal_numbers(by_kernels(module, *batch(module)), by_autograd(module, *batch(module)))


@needs_kernels
def test_a_row_shorter_than_the_context_is_computed_too() -> None:
    module = gpt(context=20)
    tokens, targets = (x[:, :7].contiguous() for x in batch(module))
    assert_equal_numbers(by_kernels(module, tokens, targets), by_autograd(module, tokens, targets))


@needs_kernels
@pytest.mark.parametrize("at_once", [1, 4, 27])
def test_logits_taken_in_parts_give_the_same_gradients(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = gpt(tied=True)
    monkeypatch.setattr(calls, "_LOGITS", at_once * module.shape.vocab)
    assert_equal_numbers(by_kernels(module, *batch(module)), by_autograd(module, *batch(module)))


@needs_kernels
@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [{}, {"tied": True, "parametrization": "completep", "base_width": 5, "base_depth": 3}],
)
def test_rows_taken_in_parts_give_the_same_gradients(
    rows_at_once: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = gpt(**changes)
    tokens, targets = batch(module, n_rows=5)
    monkeypatch.setattr(step, "_TOKENS", rows_at_once * module.shape.context)
    expected = by_autograd(module, tokens, targets)
    assert_equal_numbers(by_kernels(module, tokens, targets), expected)
    losses = LanguageModel.loss(module, tokens, targets, reduction="none").detach()
    torch.testing.assert_close(fast(module).losses(tokens, targets), losses, rtol=RTOL, atol=ATOL)


@needs_kernels
@pytest.mark.parametrize("mlp", MLPS)
def test_in_float32_only_rounding_differs(mlp: str) -> None:
    shape = {"mlp": mlp, "d_model": 64, "head_dim": 16, "d_ff": 128, "vocab": 256, "context": 128}
    exact = by_autograd(gpt(**shape), *batch(gpt(**shape)))
    module = gpt(torch.float32, **shape)
    with torch.no_grad():
        for parameter, same in zip(module.parameters(), gpt(**shape).parameters(), strict=True):
            parameter.copy_(same)
    found = by_kernels(module, *batch(module))
    for name, value in exact.items():
        # A thousand float32 terms a sum: a few times 1e-6 of the largest.
        limit = 1e-5 * float(value.abs().max())
        assert float((found[name] - value).abs().max()) < limit, name


@needs_kernels
def test_the_losses_of_tokens_are_those_of_the_definition() -> None:
    module = gpt()
    tokens, targets = batch(module)
    expected = LanguageModel.loss(module, tokens, targets, reduction="none")
    torch.testing.assert_close(
        fast(module).losses(tokens, targets), expected.detach(), rtol=RTOL, atol=ATOL
    )


@needs_kernels
def test_the_model_takes_the_fast_path_in_float32_and_gives_the_same_numbers_again() -> None:
    module = gpt(torch.float32)
    tokens, targets = batch(module)
    assert module.computed_by() == "kernels"
    first = module.gradients(tokens, targets, nullcontext()), copies(module)
    with torch.inference_mode():
        module.loss(tokens, targets, reduction="none")
    again = module.gradients(tokens, targets, nullcontext()), copies(module)
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(value, again[1][name]) for name, value in first[1].items())


@needs_kernels
def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    module = gpt(torch.float32, context=40, d_model=70)
    tokens, targets = batch(module, n_rows=5)
    monkeypatch.setattr(step, "_TOKENS", 80)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = by_kernels(module, tokens, targets)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert_equal_numbers(by_kernels(module, tokens, targets), expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


@needs_kernels
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "learns",
    [
        "attention.qkv",
        r"blocks.1.mlp.down",
        r"blocks.1.attention.(q_gain|k_gain)",
        "blocks.0.mlp_gain|blocks.1.attention.out",
        "embedding",
        "head|^gain",
    ],
)
def test_gradients_of_what_is_frozen_are_not_computed_and_the_others_keep_their_bits(
    *, learns: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = gpt(torch.float32, tied=tied, mlp="gelu" if tied else "swiglu")
    monkeypatch.setattr(step, "_TOKENS", 2 * module.shape.context)
    tokens, targets = batch(module)
    module.gradients(tokens, targets, nullcontext())
    every = copies(module)
    names = {name for name, _ in module.named_parameters() if re.search(learns, name)}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
        parameter.grad = None
    module.gradients(tokens, targets, nullcontext())
    found = copies(module)
    assert set(found) == names
    for name in names:
        assert torch.equal(found[name], every[name]), name
    assert module._cpu is not None
    (calls, *_) = module._cpu._calls.values()
    n_matrices = sum(p.ndim == 2 for p in module._cpu.params)
    is_table_alone = not tied and "embedding" in names
    # A call sets the gradient of one matrix, but for the table of a head's own.
    laid = [getattr(getattr(c, "func", None), "__name__", "") for c in calls.calls]
    assert laid.count("linear_weight") == n_matrices - is_table_alone
    assert laid.count("embed_backward") == ("embedding" in names)


@needs_kernels
def test_a_copy_and_a_module_with_moved_parameters_compute_their_own_gradients() -> None:
    module = gpt(torch.float32)
    tokens, targets = batch(module)
    module.gradients(tokens, targets, nullcontext())
    before = copies(module)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.data = torch.zeros_like(parameter)
    twin.gradients(tokens, targets, nullcontext())
    assert all(torch.equal(value, before[name]) for name, value in copies(twin).items())
    loss = module.gradients(tokens, targets, nullcontext())
    assert float(loss) == pytest.approx(float(torch.tensor(11.0).log()), rel=1e-6)
    twin.gain = torch.nn.Parameter(torch.zeros_like(twin.gain))
    twin.gradients(tokens, targets, nullcontext())
    assert twin.gain.grad is not None


@needs_kernels
@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_reaches_the_loss(mlp: str, value: float) -> None:
    module = gpt(torch.float32, mlp=mlp)
    tokens, targets = batch(module)
    with torch.no_grad():
        module.embedding[tokens[0, 0]] = value
    assert not torch.isfinite(module.gradients(tokens, targets, nullcontext()))


@needs_kernels
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e6])
@pytest.mark.parametrize("mlp", MLPS)
def test_an_mlp_far_from_zero_is_that_of_float32_and_finite(mlp: str, scale: float) -> None:
    """A gate below -88 overflowed its exponential: it let through all, or what is no number."""
    module = gpt(torch.float32, mlp=mlp)
    with torch.no_grad():
        for block in module.blocks:
            block.mlp.up.mul_(scale)  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]
    expected = by_autograd(module, *batch(module))
    found = by_kernels(module, *batch(module))
    for name, value in expected.items():
        assert bool(value.isfinite().all())
        # Some hundred float32 terms a sum, and squares that add up their rounding.
        limit = 1e-4 * float(value.abs().max())
        assert float((found[name] - value).abs().max()) <= limit, name


@needs_kernels
@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_scores_far_apart_neither_overflow_nor_lose_the_loss(scale: float) -> None:
    module = gpt(qk_norm=False, head_dim=8)
    with torch.no_grad():
        for block in module.blocks:
            block.attention.qkv.mul_(scale)  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]
    assert_equal_numbers(by_kernels(module, *batch(module)), by_autograd(module, *batch(module)))


def test_without_kernels_the_plain_way_is_taken_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = gpt(torch.float32)
    tokens, targets = batch(module)
    expected = by_autograd(module, tokens, targets)

    def none(real: str = "float") -> ctypes.CDLL:
        raise build.KernelsUnavailableError("no C++ compiler")

    monkeypatch.setattr(build, "load", none)
    assert module.computed_by() == "torch, without kernels: no C++ compiler"
    loss = module.gradients(tokens, targets, nullcontext())
    assert_equal_numbers({"loss": loss, **copies(module)}, expected, rtol=0, atol=0)


def test_autocast_takes_the_plain_way() -> None:
    module = gpt(torch.float32)
    tokens, targets = batch(module)
    loss = module.gradients(tokens, targets, torch.autocast("cpu", torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss, LanguageModel.loss(module, tokens, targets).detach())


@pytest.fixture
def built_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build anew into an empty folder, as on a machine that has not met the sources."""
    monkeypatch.setattr(build, "_folders", lambda: iter([tmp_path / "a", tmp_path / "b"]))
    monkeypatch.setattr(build, "_found", build._found.__wrapped__)
    return tmp_path


@needs_kernels
def test_kernels_are_built_once_and_nothing_else_is_left(
    built_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.load()
    (built,) = (built_here / "a").iterdir()
    assert built.suffix == ".so"
    monkeypatch.setattr(build, "_find_compiler", lambda: pytest.fail("built again"))
    build.load()


@needs_kernels
def test_what_a_kill_left_half_built_is_removed_and_what_others_build_is_not(
    built_here: Path,
) -> None:
    for name, age in (("old", 10_000), ("new", 10)):
        room = built_here / "a" / f"kernels-{name}"
        room.mkdir(parents=True)
        (room / "linear.o").write_bytes(b"half")
        then = time.time() - age
        os.utime(room, (then, then))
    build.load()
    left = sorted(path.name for path in (built_here / "a").iterdir() if path.is_dir())
    assert left == ["kernels-new"]


@needs_kernels
def test_a_folder_that_cannot_be_written_is_passed_over(built_here: Path) -> None:
    (built_here / "a").write_text("a file where the folder should be")
    build.load()
    assert len(list((built_here / "b").iterdir())) == 1


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="this system does not tell")
def test_a_folder_whose_mount_forbids_to_run_code_is_passed_over(
    built_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbids = SimpleNamespace(f_flag=os.ST_NOEXEC)
    lets = SimpleNamespace(f_flag=0)
    (built_here / "a").mkdir()
    monkeypatch.setattr(os, "statvfs", lambda place: forbids if place.name == "a" else lets)
    build.load()
    assert not list((built_here / "a").iterdir())
    (built,) = (built_here / "b").iterdir()
    # What a node that may has left there is passed over as well.
    (built_here / "a" / built.name).write_bytes(b"")
    monkeypatch.setattr(build, "_find_compiler", lambda: pytest.fail("built again"))
    build.load()


@needs_kernels
def test_a_request_to_stop_that_reaches_the_compiler_changes_nothing_of_what_is_built(
    built_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is told with all that it started: kernels for one thread were built then, and kept."""
    told = built_here / "c++"
    told.write_text(f'#!/bin/sh\nkill -TERM $$\nexec {build._find_compiler()} "$@"\n')
    told.chmod(0o755)
    monkeypatch.setenv("CXX", str(told))
    build.load()


def test_a_compiler_that_refuses_or_none_at_all_is_a_reason(
    built_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = built_here / "c++"
    broken.write_text("#!/bin/sh\necho 'no room for a vector' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(build.KernelsUnavailableError, match="no room for a vector"):
        build.load()
    broken.write_text("#!/bin/sh\nprintf 'ung\\374ltig\n' >&2\nexit 1\n")
    with pytest.raises(build.KernelsUnavailableError, match="ung\N{REPLACEMENT CHARACTER}ltig"):
        build.load()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(built_here / "empty"))
    with pytest.raises(build.KernelsUnavailableError, match=r"no C\+\+ compiler"):
        build.load()
    monkeypatch.setenv(build.SWITCH, "off")
    with pytest.raises(build.KernelsUnavailableError, match="'off'"):
        build.load()


def test_a_compiler_that_refuses_is_asked_once_and_not_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_folders", lambda: iter([tmp_path / "a"]))
    asked, broken = tmp_path / "asked", tmp_path / "c++"
    broken.write_text(f"#!/bin/sh\necho >> {asked}\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    module = gpt(torch.float32)
    build._found.cache_clear()
    try:
        module.gradients(*batch(module), nullcontext())
        once = asked.read_bytes()
        for _ in range(2):
            module.gradients(*batch(module), nullcontext())
        assert once == asked.read_bytes() != b""
        assert "exit code 1" in module.computed_by()
    finally:
        build._found.cache_clear()


def test_another_processor_gets_another_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    here = build._fingerprint("float")
    assert here != build._fingerprint("double")
    monkeypatch.setattr(build, "_processor", lambda: "flags: fpu vme")
    assert here != build._fingerprint("float")
