"""predict --yaml: the file is a sweep as it stands, frames the optima, and says what it chose."""

import json
from pathlib import Path

import pytest
import yaml
from fit_files import chinchilla, written

from scalekit import errors
from scalekit.cli import run
from scalekit.fit.result import CostLaw
from scalekit.results.plan import write_plan
from scalekit.results.store import SweepFolder
from scalekit.sweep.expand import Expansion, expand
from scalekit.sweep.load import load_sweep

# A law with optima that this machine could train: 1e11 FLOPs, about 50k params and 400k tokens.
SMALL = {"E": 1.5, "A": 20.0, "B": 100.0, "alpha": 0.4, "beta": 0.4}
TEMPLATE = """
scalekit: 1
name: mine
base:
  model: {arch: gpt, n_layers: 2, n_heads: 2, mlp: relu2, context: 64}
  data: {source: stdlib, val_tokens: 4096}
  train: {batch_tokens: 1024, schedule: constant}
grid: {train.seed: [0, 1]}
isoflop:
  budgets: [1e10]
  sizes: {d_model: [16, 32, 64]}
derive: {train.lr: 0.02 * (C / 2e11) ** -0.5}
where: [{keep: D / N < 50, because: only short runs were wanted}]
executor: {kind: local, max_parallel: 2}
"""


def small(**changes):
    data = {"path": "data.csv", "sha256": "5feb", "params_kind": "non_embedding_head"}
    plain = {
        "theta": SMALL,
        "covariance": None,
        "data": {**data, "flops_kind": "exact", "loss_unit": "nats/token"},
        "cost": CostLaw(6.5, 1.0, 0.02),
    }
    return chinchilla(**{**plain, **changes})


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TEMPLATE)
    return path


def laid(tmp_path: Path, capsys, fit, *options: str) -> tuple[str, Expansion, list[dict]]:
    """Print the sweep, read it back, and return it with the optima it is to frame."""
    where = written(tmp_path, fit)
    assert run(["predict", str(where), *options, "--yaml"]) == errors.OK, capsys.readouterr().err
    text = capsys.readouterr().out
    path = tmp_path / "next.yaml"
    path.write_text(text)
    plain = [o for o in options if not o.endswith(".yaml") and o != "--template"]
    assert run(["predict", str(where), *plain, "--format", "json"]) == errors.OK
    entries = json.loads(capsys.readouterr().out)["predictions"]
    return text, expand(load_sweep(path)), entries


def check_frames(found: Expansion, entries: list[dict], least: int = 5) -> None:
    """Every budget is met to 1 %, and its sizes lie on both sides of the optimum, evenly."""
    for entry in entries:
        runs = [r for r in found.runs if r.plan["budget"] == entry["flops"]]
        sizes = sorted({r.plan["params"][r.plan["params_kind"]] for r in runs})
        assert len(sizes) >= least
        below = [n for n in sizes if n < entry["params"]]
        above = [n for n in sizes if n > entry["params"]]
        assert len(below) >= 2
        assert len(above) >= 2
        assert 2.5 < entry["params"] / sizes[0] < 6.5
        assert 2.5 < sizes[-1] / entry["params"] < 6.5
        for r in runs:
            assert r.plan["flops"][r.plan["flops_kind"]] == pytest.approx(entry["flops"], rel=0.01)


BUDGETS = ["1e11", "1e13", "1e18", "1e21", "1e25", "1e18,4e18,1.6e19", "1e21,1e23"]


@pytest.mark.parametrize("flops", BUDGETS)
def test_without_a_template_the_built_in_frames_every_optimum(
    tmp_path: Path, capsys, flops: str
) -> None:
    fit = chinchilla() if float(flops.split(",", maxsplit=1)[0]) > 1e16 else small()
    text, found, entries = laid(tmp_path, capsys, fit, "--flops", flops)
    check_frames(found, entries)
    assert "# base: the built-in gpt on synthetic data" in text
    for r in found.runs:
        width, depth = r.config["model"]["d_model"], r.config["model"]["n_layers"]
        # Published models are 32 to 128 times as wide as deep; a layer off counts most below.
        assert 20 <= width / depth <= 160 or (width < 64 and depth <= 2)
        assert 1e-5 <= r.config["train"]["lr"] <= 1e-2


def test_a_template_gives_base_rules_and_shapes(tmp_path: Path, capsys, template: Path) -> None:
    text, found, entries = laid(
        tmp_path, capsys, small(), "--flops", "1e11", "--template", str(template)
    )
    check_frames(found, entries)
    assert f"# base: the template {template}" in text
    assert "# left out of the template: grid train.seed; where" in text
    for r in found.runs:
        assert r.config["model"]["n_layers"] == 2
        assert r.config["model"]["mlp"] == "relu2"
        assert r.config["train"]["schedule"] == "constant"
        flops = r.plan["flops"]["exact"]
        # Derived from C before it is rounded to whole steps.
        assert r.config["train"]["lr"] == pytest.approx(0.02 * (flops / 2e11) ** -0.5, rel=0.02)
    assert found.spec.executor.max_parallel == 2


def test_rungs_of_a_template_give_way_to_budgets(tmp_path: Path, capsys, template: Path) -> None:
    sections = TEMPLATE.replace("budgets: [1e10]", "").replace("isoflop:", "zip:")
    sections = sections.replace("sizes: {d_model: [16, 32, 64]}", "d_model: [16, 32, 64]")
    sections = sections.replace("constant", "wsd").replace("C / 2e11", "N / 5e4")
    template.write_text(sections + "ladder: {tokens: [64k, 128k]}\n")
    assert load_sweep(template).ladder is not None
    text, found, entries = laid(
        tmp_path, capsys, small(), "--flops", "1e11", "--template", str(template)
    )
    check_frames(found, entries)
    assert "# left out of the template: grid train.seed; ladder; where" in text
    assert not [run for run in found.runs if "parent" in run.plan]


def test_the_file_says_of_every_valley_what_was_chosen(tmp_path: Path, capsys) -> None:
    text, found, entries = laid(tmp_path, capsys, chinchilla(), "--flops", "1e21")
    notes = [line for line in text.splitlines() if line.startswith("#")]
    assert notes[0] == ("# Written by scalekit predict --yaml: chinchilla, CONVERGED, of 30 runs.")
    assert (
        "# 1e21 FLOPs: N* 2.85B (2.73B to 2.98B) params, 58.4B tokens, loss 2.3106; 7 sizes, 10 "
        "times the largest fitted FLOPs"
    ) in notes
    assert sum(line.startswith("#   d_model") for line in notes) == len(found.runs) == 7
    assert entries[0]["params"] == pytest.approx(2.852e9, rel=1e-3)
    assert yaml.safe_load(text)["count"]["params"] == "total"


def test_validate_and_a_dry_run_take_the_file_as_it_is(
    tmp_path: Path, capsys, template: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in (["--template", str(template)], []):
        laid(tmp_path, capsys, small(), "--flops", "1e11,2e11", *options)
        assert run(["validate", "next.yaml"]) == errors.OK
        assert run(["sweep", "next.yaml", "--dry-run"]) == errors.OK
        assert "to start, executor local" in capsys.readouterr().out


def test_the_fits_own_sweep_is_the_template_when_its_data_is_one(
    tmp_path: Path, capsys, template: Path, monkeypatch
) -> None:
    folder = SweepFolder(tmp_path / "runs" / "mine")
    found = expand(load_sweep(template))
    folder.root.mkdir(parents=True)
    write_plan(folder, found.spec.resolved_yaml(), [r.to_json() for r in found.runs])
    monkeypatch.chdir(tmp_path)
    data = dict(small().data)
    # Fitted from the folder; from its collected table; from the analysis that lies inside it.
    for path, where in (
        ("runs/mine", "fit.json"),
        (str(folder.table_file), "fit.json"),
        ("data.csv", "runs/mine/analysis/fit.json"),
    ):
        target = tmp_path / where
        target.parent.mkdir(exist_ok=True)
        fit = written(target.parent, small(data={**data, "path": path}))
        assert run(["predict", str(fit), "--flops", "1e11", "--yaml"]) == errors.OK
        text = capsys.readouterr().out
        assert "# base: the fit's own sweep" in text
        assert yaml.safe_load(text)["base"]["model"]["mlp"] == "relu2"
        target.unlink()


def test_the_fits_way_of_counting_wins_over_the_templates(
    tmp_path: Path, capsys, template: Path
) -> None:
    template.write_text(TEMPLATE + "count: {params: total, flops: 6N_total}\n")
    text, found, _ = laid(tmp_path, capsys, small(), "--flops", "1e11", "--template", str(template))
    assert "# counted: params non_embedding_head, FLOPs exact, as in the fit" in text
    assert {r.plan["params_kind"] for r in found.runs} == {"non_embedding_head"}


def test_a_fit_that_states_no_kind_is_laid_out_with_a_caution(tmp_path: Path, capsys) -> None:
    data = {"path": "x.csv", "params_kind": "unstated", "flops_kind": "unstated"}
    text, found, entries = laid(tmp_path, capsys, chinchilla(data=data), "--flops", "1e20")
    assert "as in the fit, which states params as unstated: check" in text
    # Counted as 6 N D, so that the budget buys the tokens that the law thinks of.
    assert found.runs[0].plan["flops_kind"] == "6N_non_embedding_head"
    check_frames(found, entries)


def test_a_loss_target_can_be_laid_out_too(tmp_path: Path, capsys) -> None:
    _, found, entries = laid(tmp_path, capsys, chinchilla(), "--loss", "2.5")
    check_frames(found, entries)


def test_what_the_built_in_cannot_train_is_told_without_a_file(tmp_path: Path, capsys) -> None:
    fit = written(tmp_path, small())
    assert run(["predict", str(fit), "--flops", "1e7", "--yaml"]) == errors.REFUSED
    assert (
        "error: --yaml: the built-in gpt on synthetic data cannot train around this optimum, "
        "the built-in template:1:1: no run is left of "
    ) in capsys.readouterr().err


REFUSED = {
    "too little data": ("", ["--flops", "1e15"], "training tokens are"),
    "no shape": (
        TEMPLATE.replace("n_layers: 2, n_heads: 2, ", "").replace(
            "d_model: [16, 32, 64]", "beta1: [0.9]"
        ),
        ["--flops", "1e11"],
        "says no d_model",
    ),
    "no such file": (None, ["--flops", "1e11"], "cannot be read"),
    "steps too long for the budget": (
        TEMPLATE.replace("batch_tokens: 1024", "batch_tokens: 65536"),
        ["--flops", "1e11"],
        "whole steps give",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_train_there_is_refused(
    tmp_path: Path, capsys, template: Path, name: str
) -> None:
    text, options, says = REFUSED[name]
    if text is None:
        template.unlink()
    elif text:
        template.write_text(text)
    fit = written(tmp_path, small())
    argv = ["predict", str(fit), *options, "--yaml", "--template", str(template)]
    assert run(argv) == errors.REFUSED
    taken = capsys.readouterr()
    assert says in taken.err
    assert taken.out == ""
    assert "Traceback" not in taken.err


def test_a_template_that_combines_depths_with_widths_is_refused_with_what_to_do(
    tmp_path: Path, template: Path, capsys
) -> None:
    plain = TEMPLATE.replace("n_layers: 2, ", "").replace(
        "grid: {train.seed: [0, 1]}", "grid: {n_layers: [2, 4]}"
    )
    in_grid = plain.replace("n_layers: [2, 4]", "n_layers: [2, 4], d_model: [16, 32]")
    in_grid = in_grid.replace("  sizes: {d_model: [16, 32, 64]}\n", "").replace(
        "isoflop:\n  budgets: [1e10]\n", ""
    )
    for text in (plain, in_grid):
        template.write_text(text)
        where = str(written(tmp_path, small()))
        argv = ["predict", where, "--flops", "1e11", "--yaml", "--template", str(template)]
        assert run(argv) == errors.REFUSED
        said = capsys.readouterr().err
        assert "mine.yaml: combines every " in said
        assert "walk them together in zip, or keep one " in said
