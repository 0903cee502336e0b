"""Planning runs that start from others: which run is meant, what follows, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scalekit import errors
from scalekit.cli import run
from scalekit.documents.base import Ask
from scalekit.errors import InputError
from scalekit.prepare.recipe import Recipe, find_sources
from scalekit.prepare.run import prepare
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.results.table import read_table
from scalekit.sweep.expand import Expansion, expand
from scalekit.sweep.identity import config_id
from scalekit.sweep.load import load_sweep
from scalekit.sweep.plan import plan_sweep
from scalekit.sweep.start import weights_file

FIRST = """\
scalekit: 1
name: first
base:
  model: {n_layers: 1, head_dim: 8, context: 16, mlp: relu2}
  data: {source: synthetic, val_tokens: 512, synthetic: {symbols: 64, degree: 10}}
  train: {steps: 6, batch_tokens: 128, lr: 1e-2}
  log: {every: 3, evals: 2, keep_weights: true}
grid: {model.d_model: [16, 24]}
"""
THEN = """\
scalekit: 1
name: then
base:
  start: {folder: runs/first}
  data: {source: synthetic, val_tokens: 512, max_epochs: 9, synthetic: {symbols: 64, seed: 7}}
  train: {steps: 4, batch_tokens: 128, lr: 1e-2}
  log: {every: 2, evals: 1}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a first sweep that is planned and whose weights seem to be there."""
    monkeypatch.chdir(tmp_path)
    plan_first(tmp_path, FIRST)
    return tmp_path


def plan_first(here: Path, text: str) -> None:
    (here / "first.yaml").write_text(text)
    folder = here / "runs" / "first"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [spec.to_json() for spec in expand(load_sweep(here / "first.yaml")).runs]
    (folder / "plan.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        path = weights_file(folder, line["id"])
        path.parent.mkdir(exist_ok=True)
        path.touch()


def parents(here: Path) -> list[dict[str, Any]]:
    return list(SweepFolder(here / "runs" / "first").plan_lines())


def plan(here: Path, more: str, base: str = "", then: str = THEN) -> Expansion:
    text = then.replace("runs/first}", "runs/first" + base + "}") + more
    (here / "then.yaml").write_text(text)
    return expand(load_sweep(here / "then.yaml"))


def test_the_parent_is_the_one_run_with_the_model_that_is_swept(here: Path) -> None:
    found = plan(here, "grid: {model.d_model: [16, 24]}").runs
    for spec, parent in zip(found, parents(here), strict=True):
        assert spec.config["start"]["run"] == parent["id"]
        assert spec.config["start"]["step"] == 6
        assert spec.config["model"] == parent["config"]["model"]
        assert spec.plan["start"] == {"run": parent["id"], "step": 6, "tokens": 6 * 128}
        assert spec.plan["trainable_params"] == parent["plan"]["params"]["total"]
        assert spec.config["start"]["folder"] == str(here / "runs" / "first")


def test_parents_are_named_by_the_start_of_their_ids(here: Path) -> None:
    ids = [line["id"] for line in parents(here)]
    found = plan(here, f"grid: {{start.run: ['{ids[1]}', '{ids[0][:5]}']}}").runs
    assert [spec.config["start"]["run"] for spec in found] == [ids[1], ids[0]]
    assert [spec.config["model"]["d_model"] for spec in found] == [24, 16]


def test_an_id_is_of_the_parent_and_its_step_and_not_of_where_it_lies(here: Path) -> None:
    (spec,) = plan(here, "cases: [{model.d_model: 16}]").runs
    (here / "runs" / "first").rename(here / "runs" / "moved")
    text = (here / "then.yaml").read_text().replace("runs/first", "runs/moved")
    (here / "then.yaml").write_text(text)
    (moved,) = expand(load_sweep(here / "then.yaml")).runs
    assert moved.id == spec.id
    assert moved.config["start"]["folder"] != spec.config["start"]["folder"]
    for key, value in (("run", "0123456789"), ("step", 7), ("method", "lora"), ("rank", 3)):
        changed = {**spec.config, "start": {**spec.config["start"], key: value}}
        assert config_id(changed) != spec.id, key
    assert config_id(json.loads(json.dumps(spec.config))) == spec.id


def test_adapters_are_swept_and_named_in_one_way(here: Path) -> None:
    more = """
grid:
  model.d_model: [16]
  start.method: [full, lora]
  start.rank: [2, 4]
  start.targets: [[v, q], [q, v], [all]]
"""
    found = plan(here, more)
    told = [(s.config["start"]["rank"], s.config["start"]["targets"]) for s in found.runs]
    every = ["q", "k", "v", "out", "up", "down"]  # no gate without swiglu
    assert told == [(8, ["q", "v"]), (2, ["q", "v"]), (2, every), (4, ["q", "v"]), (4, every)]
    # Whatever the rank, full fine-tuning is one run; the order of targets is no difference.
    assert [row.reason.split()[0] for row in found.dropped] == ["same"] * 7
    widths = (16 + 16) * 4 + (16 + 64) * 2  # queries, keys, values, out; up and down of 4 x 16
    assert [s.plan["trainable_params"] for s in found.runs[2::2]] == [2 * widths, 4 * widths]


def test_flops_are_of_what_learns(here: Path) -> None:
    more = """
grid:
  model.d_model: [16]
  start.method: [full, lora]
"""
    whole, adapters = (spec.plan for spec in plan(here, more).runs)
    assert whole["flops_per_token"] == parents(here)[0]["plan"]["flops_per_token"]
    # Attention has no weights whose gradients could be saved: its products, and its softmax.
    attention, softmax = 3 * 4 * 16 * 16, 3 * 3 * 2 * 16
    stays = {kind: attention + softmax for kind in whole["flops"] if kind.startswith("exact")}
    stays["deepseek"] = attention
    for kind, flops in whole["flops_per_token"].items():
        # Of three passes the gradients of the weights are one; an adapter's numbers take all three.
        all_three = stays.get(kind, 0) + 6 * adapters["trainable_params"]
        expected = (flops - stays.get(kind, 0)) * 2 / 3 + all_three
        assert adapters["flops_per_token"][kind] == pytest.approx(expected, rel=1e-12), kind
        assert adapters["flops"][kind] == pytest.approx(expected * adapters["tokens"], rel=1e-12)
    assert adapters["params"] == whole["params"]


def test_memory_and_disk_are_of_what_learns(here: Path) -> None:
    whole, lora = (
        replace(found, runs=found.runs[n : n + 1])
        for found in [plan(here, "grid: {model.d_model: [16], start.method: [full, lora]}")]
        for n in (0, 1)
    )
    total, learns = (x.runs[0].plan["trainable_params"] for x in (whole, lora))
    adapted = 2 * 16 * 16  # q and v, without their adapters
    estimates = [plan_sweep(x, at_once=1).estimate for x in (whole, lora)]
    memory, disk = ([getattr(e, n) for e in estimates] for n in ("memory_gb", "cost"))
    spared = 16 * total - (4 * (total + adapted) + 16 * learns)
    assert memory[0] - memory[1] == pytest.approx(spared / 1e9, rel=1e-6)
    # Three checkpoints at a time, in which neither has gradients.
    spared = 3 * (12 * total - (4 * (total + adapted) + 12 * learns))
    assert disk[0].disk_gb - disk[1].disk_gb == pytest.approx(spared / 1e9, rel=1e-6)


def test_a_budget_in_flops_trains_adapters_longer(here: Path) -> None:
    flops = parents(here)[0]["plan"]["flops"]["exact"]
    text = THEN.replace("steps: 4", f"flops: {flops}").replace("first}", "first, method: lora}")
    (here / "then.yaml").write_text(text + "cases: [{model.d_model: 16}]")
    (spec,) = expand(load_sweep(here / "then.yaml")).runs
    # Six steps of all weights; one of adapters is more than two thirds as much.
    assert spec.plan["steps"] in (7, 8)
    assert spec.plan["flops"]["exact"] == pytest.approx(flops, rel=0.5 / spec.plan["steps"])


def test_runs_that_start_anew_keep_their_ids(here: Path) -> None:
    """New settings at their defaults enter no id; these are those of before there were starts."""
    assert [line["id"] for line in parents(here)] == ["bc0fe97746", "748946c0aa"]


@pytest.mark.parametrize(
    ("more", "base", "said"),
    [
        ("", "", "2 runs in {first} fit, {ids}"),
        ("cases: [{model.d_model: 32}]", "", "no run with this model in {first}, which has {ids}"),
        ("", ", run: zz", "no run 'zz' in {first}, which has {ids}"),
        ("", ", run: '{id}', method: lora, targets: [gate]", "which model.mlp 'relu2' has not"),
        (
            "grid: {train.optimizer: [adamw, muon]}",
            ", run: '{id}', method: lora",
            "muon moves a model's own matrices, and lora's adapters learn by adamw either way",
        ),
        ("", ", run: '{id}', step: 3", "start.step is 3, run {id} ends at step 6"),
        ("cases: [{model.n_layers: 2}]", ", run: '{id}'", "n_layers is 2, but run {id}"),
        ("cases: [{data.tokenizer: gpt2}]", ", run: '{id}'", "data.tokenizer is 'gpt2'"),
        ("", "x", "start.folder is '{first}x', where plan.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_started_from_is_refused(
    here: Path, more: str, base: str, said: str
) -> None:
    ids = [line["id"] for line in parents(here)]
    known = {"id": ids[0], "ids": ", ".join(ids), "first": here / "runs" / "first"}
    with pytest.raises(InputError) as refused:
        plan(here, more.replace("{id}", ids[0]), base.replace("{id}", ids[0]))
    assert said.format(**known) in str(refused.value)


def write_tokens(here: Path) -> None:
    """Prepare a folder, copy it as of another tokenizer, and one more that does not say whose."""
    texts = here / "texts.txt"
    texts.write_text("\n\n".join(f"text number {n}" for n in range(50)))
    recipe = Recipe("bytes", None, 0.5, 1000, Ask(unit="blank"))
    prepare(recipe, find_sources([str(texts)], None, is_held_out=False), here / "own", workers=1)
    manifest = here / shutil.copytree("own", "other") / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"identity": "bytes"', '"identity": "t:1"'))
    (here / shutil.copytree("own", "unsaid") / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ("own", "own", None),
        ("other", "other", None),
        ("unsaid", "other", None),
        ("own", "other", "data.tokenizer is 't:1', run {run} has 'bytes'; take the same"),
        ("other", "own", "data.tokenizer is 'bytes', run {run} has 't:1'; take the same"),
        ("other", "unsaid", "data.tokenizer is 'bytes', run {run} has 't:1'; take the same"),
    ],
)
def test_tokens_are_those_that_the_weights_were_learnt_on(
    here: Path, first: str, then: str, said: str | None
) -> None:
    """A prepared folder says which, so that the sweep need not."""
    write_tokens(here)
    data = "data: {source: shards, val_tokens: 32, max_epochs: 99, path: PATH}"
    one, two = (re.sub("data: .*", data, text) for text in (FIRST, THEN))
    one = one.replace("model: {", "model: {vocab: 256, ")
    plan_first(here, one.replace("PATH", first))
    asked = (here, "cases: [{model.d_model: 16}]", "", two.replace("PATH", then))
    if said is None:
        assert plan(*asked).runs
        return
    with pytest.raises(InputError) as refused:
        plan(*asked)
    assert said.format(run=parents(here)[0]["id"]) in str(refused.value)


@pytest.mark.parametrize("setting", ["rank", "alpha"])
def test_rungs_with_different_adapters_have_no_common_beginning(here: Path, setting: str) -> None:
    """A branch would go on with its trunk's: of another shape, or learnt at another scale."""
    more = f"ladder: {{steps: [4, 8]}}\nderive: {{start.{setting}: steps}}\n"
    base = f", run: '{parents(here)[0]['id']}', method: lora"
    then = THEN.replace("steps: 4, ", "schedule: wsd, warmup_tokens: 0, ")
    with pytest.raises(InputError, match=rf"start\.{setting} differs between rungs of one trunk"):
        plan(here, more, base, then)


@pytest.mark.parametrize("setting", ["run: abc", "method: lora"])
def test_half_a_start_is_refused(here: Path, setting: str) -> None:
    text = FIRST.replace("base:\n", f"base:\n  start: {{{setting}}}\n")
    (here / "half.yaml").write_text(text)
    with pytest.raises(InputError, match=r"nothing says where that run lies.*; set start\.folder"):
        expand(load_sweep(here / "half.yaml"))


def test_a_parent_without_weights_is_refused_by_name(here: Path) -> None:
    parent = parents(here)[0]["id"]
    weights_file(here / "runs" / "first", parent).unlink()
    with pytest.raises(InputError, match=f"run {parent} has no weights in .*log.keep_weights"):
        plan(here, "cases: [{model.d_model: 16}]")


def test_a_transfer_sweep_by_the_commands_gives_a_table_for_its_laws(here: Path) -> None:
    wait = ["-e", "inline", "--wait", "-y", "--allow-unidentified"]
    more = """
grid:
  model.d_model: [16, 24]
  data.unique_tokens: [128, 512]
cases: [{model.d_model: 16, start.method: lora, start.rank: 2}]
"""
    for path in (here / "runs" / "first" / "weights").iterdir():
        path.unlink()
    text = THEN + more
    (here / "then.yaml").write_text(text)
    # Weights that are not there yet are a refusal that says so; nothing is submitted.
    assert run(["sweep", "then.yaml", *wait]) == errors.REFUSED
    assert not (here / "runs" / "then").exists()
    assert run(["sweep", "first.yaml", *wait]) == 0
    assert run(["sweep", "then.yaml", *wait]) == 0
    assert run(["collect", "runs/then", "-o", "data.csv"]) == 0
    table = read_table("data.csv")
    first = {line["id"]: line for line in parents(here)}
    assert set(table["start_run"]) == set(first)
    for row, parent in enumerate(table["start_run"]):
        plan = first[parent]["plan"]
        assert (table["start_step"][row], table["start_tokens"][row]) == (6, 768)
        assert table["params_total"][row] == plan["params"]["total"]
        learns = plan["params"]["total"] if row < 4 else 2 * 2 * (16 + 16)
        assert table["trainable_params"][row] == learns
        record = read_record(SweepFolder(Path("runs/then")).record(table["run"][row]))
        assert record.start is not None
        assert table["start_loss"][row] == record.start["val_loss"]
    assert set(table["unique_tokens"].tolist()[:4]) == {128, 512}
    assert table["start.method"].tolist() == ["full"] * 4 + ["lora"]
    assert table["finetune_tokens"].tolist() == table["unique_tokens"].tolist()
    fitted = ["--law", "finetune", "--fix", "E=1", "--fix", "alpha=0.1", "-o", "fit.json"]
    assert run(["fit", "runs/then", *fitted]) == 0
    assert "start.run" not in table
