"""Shapes near asked sizes: of the template's own family, valid, near, and by rising params."""

import math
from pathlib import Path

import pytest

from scalekit.errors import InputError
from scalekit.sweep.around import family_of, shapes_near
from scalekit.sweep.expand import expand
from scalekit.sweep.load import load_sweep
from scalekit.sweep.sweep_spec import SweepSpec

HEAD = """
scalekit: 1
name: t
"""
DATA = "  data: {source: synthetic}\n  train: {steps: 10}\n"

FAMILIES = {
    "sizes of two keys": (
        "base:\n  model: {head_dim: 32, context: 64}\n" + DATA + "isoflop:\n  budgets: [1e13]\n"
        "  sizes: {n_layers: [2, 4, 8], d_model: [64, 128, 256]}\n"
    ).replace("  train: {steps: 10}\n", ""),
    "width alone": (
        "base:\n  model: {n_layers: 2, n_heads: 2, context: 64}\n"
        + DATA
        + "grid: {d_model: [16, 32, 64]}\n"
    ),
    "depth, width derived": (
        "base:\n  model: {n_layers: 4, head_dim: 64, context: 64}\n"
        + DATA
        + "derive: {d_model: 64 * n_layers}\n"
    ),
    "one shape": "base:\n  model: {d_model: 256, n_layers: 4, head_dim: 64, context: 64}\n" + DATA,
    "walked together": (
        "base:\n  model: {context: 64}\n" + DATA + "zip: {d_model: [64, 512], n_layers: [2, 8]}\n"
    ),
}


def spec(folder: Path, text: str) -> SweepSpec:
    path = folder / "t.yaml"
    path.write_text(HEAD + text)
    return load_sweep(path)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_asked_size_gets_a_shape_of_the_family_near_it(tmp_path: Path, name: str) -> None:
    sweep = spec(tmp_path, FAMILIES[name])
    asked = [1e6 * 1.6**k for k in range(8)]
    found = shapes_near(sweep, family_of(sweep), asked)
    assert [s.params for s in found] == sorted(s.params for s in found)
    for wanted in asked:
        best = min(found, key=lambda s, n=wanted: abs(math.log(s.params / n)))
        # Width derived from depth grows as its cube: from 4 to 5 layers is a factor two.
        assert 0.7 < best.params / wanted < 1.45
    assert len(found) >= 6


def test_the_family_follows_the_templates_proportions(tmp_path: Path) -> None:
    sweep = spec(tmp_path, FAMILIES["sizes of two keys"])
    for shape in shapes_near(sweep, family_of(sweep), [1e7, 1e8, 1e9]):
        width, depth = shape.values["model.d_model"], shape.values["model.n_layers"]
        assert width % 32 == 0
        assert abs(depth - width / 32) <= 1
    sweep = spec(tmp_path, FAMILIES["one shape"])
    for shape in shapes_near(sweep, family_of(sweep), [1e7, 1e9]):
        width, depth = shape.values["model.d_model"], shape.values["model.n_layers"]
        assert abs(depth - width / 64) <= 1


def test_what_does_not_grow_with_the_sizes_is_taken_from_the_nearest(tmp_path: Path) -> None:
    sizes = "{mlp: [gelu, relu2], n_layers: [2, 8], d_model: [64, 256], tied: [true, false],"
    text = FAMILIES["sizes of two keys"].split("isoflop")[0]
    text += f"isoflop: {{budgets: [1e13], sizes: {sizes} ffn_mult: [4, 2.5], n_kv_heads: [1, 1]}}}}"
    sweep = spec(tmp_path, text)
    for shape in shapes_near(sweep, family_of(sweep), [1e5, 3e7]):
        width = shape.values["model.d_model"]
        assert abs(shape.values["model.n_layers"] - width / 32) <= 1
        kept = {key: shape.values[f"model.{key}"] for key in ("mlp", "tied", "ffn_mult")}
        small, large = ("gelu", True, 4), ("relu2", False, 2.5)
        assert tuple(kept.values()) == (small if width < 128 else large)
        assert shape.values["model.n_kv_heads"] == 1


def test_sizes_of_one_width_differ_in_depth(tmp_path: Path) -> None:
    text = FAMILIES["sizes of two keys"].replace("[64, 128, 256]", "[160, 160, 160]")
    sweep = spec(tmp_path, text)
    shapes = shapes_near(sweep, family_of(sweep), [1e6, 3e6, 1e7])
    assert [shape.values["model.d_model"] for shape in shapes] == [160] * 3
    assert [shape.values["model.n_layers"] for shape in shapes] == [3, 10, 32]


def test_shapes_that_heads_do_not_divide_are_passed_over(tmp_path: Path) -> None:
    text = "base:\n  model: {n_layers: 2, n_heads: 6, d_model: 96, context: 64}\n" + DATA
    sweep = spec(tmp_path, text)
    for shape in shapes_near(sweep, family_of(sweep), [1e5, 1e6, 1e7]):
        assert shape.values["model.d_model"] % 12 == 0


@pytest.mark.parametrize("kind", ["total", "non_embedding"])
def test_params_are_those_of_the_run_that_the_sweep_makes(tmp_path: Path, kind: str) -> None:
    sweep = spec(tmp_path, FAMILIES["one shape"] + f"count: {{params: {kind}}}\n")
    for shape in shapes_near(sweep, family_of(sweep), [1e6, 1e8]):
        sets = [f"{key}={value}" for key, value in shape.values.items()]
        run = expand(load_sweep(tmp_path / "t.yaml", sets)).runs[0]
        assert shape.params == run.plan["params"][kind]


def test_a_sweep_that_says_no_shape_is_refused(tmp_path: Path) -> None:
    sweep = spec(tmp_path, "base:\n  model: {context: 64}\n" + DATA)
    with pytest.raises(InputError, match="says no d_model"):
        family_of(sweep)


def test_a_family_without_any_possible_shape_says_why(tmp_path: Path) -> None:
    text = "base:\n  model: {n_layers: 2, d_model: 64, head_dim: 15, context: 64}\n" + DATA
    sweep = spec(tmp_path, text)
    with pytest.raises(InputError, match=r"no shape of .* can be built, .*head_dim 15 is odd"):
        shapes_near(sweep, family_of(sweep), [1e6])
