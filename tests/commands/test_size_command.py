"""`scalekit size`: the numbers of counting, in every format, and its refusals."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from scalekit.cli import run
from scalekit.counting import (
    FLOPS_KINDS,
    PARAMS_KINDS,
    Shape,
    count_flops_per_token,
    count_params,
    memory_bytes,
)

SHAPE = Shape(
    d_model=512,
    n_layers=8,
    n_heads=8,
    head_dim=64,
    n_kv_heads=2,
    d_ff=1024,
    vocab=50_304,
    context=1024,
    mlp="relu2",
    tied=True,
    qk_norm=False,
)
OPTIONS = ["--d-model", "512", "--n-layers", "8", "--n-kv-heads", "2", "--d-ff", "1024"]
OPTIONS += ["--vocab", "50304", "--context", "1024", "--mlp", "relu2", "--tied", "--no-qk-norm"]


def as_json(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert run(["size", *options, "--format", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "scalekit.size/1"
    return value


def test_json_holds_every_count_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    value = as_json(capsys, *OPTIONS, "--tokens", "20B", "--batch-tokens", "4096")
    (model,) = value["models"]
    assert Shape(**model["shape"]) == SHAPE
    assert model["params"] == count_params(SHAPE)
    per_token = count_flops_per_token(SHAPE)
    assert model["flops_per_token"] == per_token
    assert model["flops"] == {kind: flops * 20e9 for kind, flops in per_token.items()}
    assert model["ratio_to_6N_total"]["6N_total"] == 1
    state, activations = memory_bytes(SHAPE, batch_tokens=4096)
    assert model["memory"]["state_gb"] == state / 1e9
    assert model["memory"]["activations_gb"] == activations / 1e9
    for kind in PARAMS_KINDS:
        rule = model["twenty_tokens_per_param"][kind]
        assert rule["tokens"] == 20 * model["params"][kind]
        assert rule["flops"] == rule["tokens"] * per_token["exact"]


def test_the_table_names_every_convention_and_every_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["size", *OPTIONS, "--tokens", "20B"]) == 0
    out = capsys.readouterr().out
    assert all(kind in out for kind in (*PARAMS_KINDS, *FLOPS_KINDS))
    assert "n_kv_heads 2" in out
    assert "relu2, tied\n" in out
    assert f"{count_params(SHAPE)['total']:,}" in out
    assert "for 20B tokens" in out


def test_csv_is_one_row_a_model_with_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["size", *OPTIONS, "--format", "csv"]) == 0
    (row,) = csv.DictReader(StringIO(capsys.readouterr().out))
    assert int(row["params.non_embedding"]) == count_params(SHAPE)["non_embedding"]
    assert float(row["flops_per_token.exact"]) == count_flops_per_token(SHAPE)["exact"]


def test_a_sweeps_shapes_are_shown_once_each_by_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "scalekit: 1\nname: a\nbase: {model.n_layers: 2, model.head_dim: 16, train.steps: 10,"
        " data.source: synthetic}\n"
        "grid: {model.d_model: [64, 32], train.lr: [1e-3, 2e-3]}\n"
    )
    value = as_json(capsys, "--config", str(file))
    assert [model["shape"]["d_model"] for model in value["models"]] == [32, 64]
    assert run(["size", "--config", str(file)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--d-model", "512"], 2, "size: no shape is given; give --d-model and --n-layers, or"),
        ([], 2, "size: no shape is given"),
        (["--n-layers", "2"], 2, "size: no shape is given"),
        (
            ["--d-model", "500", "--n-layers", "2", "--head-dim", "64"],
            3,
            "d_model 500 is not a multiple of model.head_dim 64; take 448 or 512",
        ),
        (["--d-model", "64", "--n-layers", "2", "--mlp", "swiglo"], 2, "did you mean 'swiglu'?"),
        (["--d-model", "64", "--n-layers", "2", "--tokens", "many"], 2, "'many': not a number"),
        (["--d-model", "64", "--n-layers", "2", "--tokens", "0"], 2, "not above zero"),
        (["--d-model", "0", "--n-layers", "2"], 2, "d-model"),
        (["--d-model", "64", "--config", "a.yaml"], 2, "--config: the sweep says the shapes"),
        (["--config", "no.yaml"], 3, "no.yaml:1:1: cannot be read, No such file"),
        (["--d-modle", "64"], 2, "--d-modle"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(
    options: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["size", *options]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
