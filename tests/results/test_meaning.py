"""What a foreign source's columns are taken to mean: stated, settled by an option, or refused."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "importers"))
from log_examples import EXAMPLES, NANOGPT  # pyright: ignore[reportMissingImports]

from scalekit.errors import InputError, UsageError
from scalekit.results.collect import collect, read_runs
from scalekit.results.reading import LOSS_UNITS, Reading
from scalekit.results.table import RunTable, write_table


def put(folder: Path, text: str, name: str = "runs.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def read(folder: Path, text: str, mapping: dict[str, str] | None = None, **options) -> RunTable:
    return collect([put(folder, text)], Reading(mapping or {}, **options))


def refusal(folder: Path, text: str, mapping: dict[str, str] | None = None, **options) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, text, mapping, **options)
    assert str(caught.value).startswith(str(folder))
    return str(caught.value)


PLAIN = "params,tokens,loss\n1e6,2e7,3.5\n2e6,4e7,3.25\n"


# --- which column is the loss ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("train_loss,val_loss", "but 'val_loss' or 'train_loss'; .*--map loss=val_loss"),
        ("val_ppl,train_loss", "but 'train_loss' or 'val_ppl'; .*--map loss=train_loss"),
        ("val/loss,x", "no column 'loss' but 'val/loss'; .*--map loss=val/loss"),
        ("loss,val_loss", "may be 'loss' or 'val_loss'; .*--map loss=val_loss, or --map loss=loss"),
        ("loss,train/loss", "may be 'loss' or 'train/loss'"),
        ("validation bpb,x", "--map loss='validation bpb'"),
        ("los,x", "no column 'loss'; did you mean 'los'"),
        ("a,b", "no column 'loss'; choose from"),
    ],
)
def test_a_loss_that_is_not_certain_is_refused(tmp_path: Path, columns: str, says: str) -> None:
    message = refusal(tmp_path, f"params,tokens,{columns}\n1e6,2e7,3.5,3.25\n")
    import re

    assert re.search(says, message), message


def test_naming_the_loss_settles_it(tmp_path: Path) -> None:
    text = "params,tokens,loss,val_loss\n1e6,2e7,3.5,3.25\n"
    assert read(tmp_path, text, {"loss": "val_loss"})["loss"].tolist() == [3.25]
    assert read(tmp_path, text, {"loss": "loss"})["loss"].tolist() == [3.5]


def test_other_columns_of_loss_leave_a_loss_alone(tmp_path: Path) -> None:
    text = "params,tokens,loss,loss_sem,smooth_loss,z_loss\n1e6,2e7,3.5,0.1,3.4,0.01\n"
    assert read(tmp_path, text)["loss"].tolist() == [3.5]


def test_a_table_that_was_collected_is_read_again_as_it_is(tmp_path: Path) -> None:
    text = "params,tokens,train_loss,val_loss\n1e6,2e7,3.5,3.25\n2e6,4e7,3.25,3\n"
    first = read(tmp_path, text, {"loss": "val_loss"})
    write_table(first, tmp_path / "data.csv")
    again = collect([tmp_path / "data.csv"])
    assert list(again.columns) == list(first.columns)
    for name in first.columns:
        assert again[name].tolist() == first[name].tolist(), name
    assert again.meta["sha256"] == first.meta["sha256"]


# --- its unit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("val_bpb", "bits/byte"),
        ("eval/bits_per_byte", "bits/byte"),
        ("bpc", "bits/character"),
        ("loss", "unstated"),
    ],
)
def test_the_unit_is_what_the_name_states(tmp_path: Path, column: str, unit: str) -> None:
    table = read(tmp_path, f"params,tokens,{column}\n1e6,2e7,1.5\n", {"loss": column})
    assert table["loss_unit"].tolist() == [unit]
    assert table.meta["loss_unit"] == unit
    assert any(unit in said or "not stated" in said for said in table.meta["assumed"])


@pytest.mark.parametrize(("unit", "short"), LOSS_UNITS.items())
def test_a_unit_can_be_said_by_its_name_or_shortly(tmp_path: Path, unit: str, short: str) -> None:
    for word in (unit, short):
        assert read(tmp_path, PLAIN, loss_unit=word).meta["loss_unit"] == unit


def test_bits_without_a_per_what_are_refused(tmp_path: Path) -> None:
    text = "params,tokens,loss_bits\n1e6,2e7,1.5\n"
    assert "in bits, a token or a byte is not said" in refusal(
        tmp_path, text, {"loss": "loss_bits"}
    )
    table = read(tmp_path, text, {"loss": "loss_bits"}, loss_unit="bits")
    assert table.meta["loss_unit"] == "bits/token"


def test_a_perplexity_is_no_loss(tmp_path: Path) -> None:
    text = "params,tokens,val_ppl\n1e6,2e7,20\n"
    assert "is a perplexity" in refusal(tmp_path, text, {"loss": "val_ppl"})
    table = read(tmp_path, text, {"loss": "log(val_ppl)"}, loss_unit="nats")
    assert table["loss"].tolist() == [pytest.approx(math.log(20), rel=1e-15)]


@pytest.mark.parametrize("expression", ["val_loss/log(2)", "log2(exp(val_loss))", "val_bpb * 3.2"])
def test_computing_that_may_change_the_unit_needs_it_said(tmp_path: Path, expression: str) -> None:
    text = "params,tokens,val_loss,val_bpb\n1e6,2e7,3.5,1.1\n"
    assert "say in what it comes out with --loss-unit" in refusal(
        tmp_path, text, {"loss": expression}
    )
    table = read(tmp_path, text, {"loss": expression}, loss_unit="bits")
    assert table.meta["loss_unit"] == "bits/token"


def test_computing_that_keeps_the_unit_keeps_it(tmp_path: Path) -> None:
    text = "params,tokens,val_bpb\n1e6,2e7,1.1\n"
    table = read(tmp_path, text, {"loss": "max(val_bpb, 0.5)"})
    assert table.meta["loss_unit"] == "bits/byte"


def test_a_stated_unit_is_not_relabelled(tmp_path: Path) -> None:
    text = "params,tokens,loss,loss_unit\n1e6,2e7,3.5,nats/token\n"
    message = refusal(tmp_path, text, loss_unit="bits")
    assert "'loss' is in nats/token, not bits/token; convert it" in message
    text = "params,tokens,val_bpb\n1e6,2e7,1.1\n"
    assert "in bits/byte, not nats/token" in refusal(
        tmp_path, text, {"loss": "val_bpb"}, loss_unit="nats"
    )


def test_rows_that_state_their_own_units_keep_them(tmp_path: Path) -> None:
    text = (
        "params,tokens,loss,loss_unit\n1e6,2e7,3.5,nats/token\n2e6,2e7,3.5,\n2e6,3e7,5,bits/token\n"
    )
    table = read(tmp_path, text)
    assert table["loss_unit"].tolist() == ["nats/token", "", "bits/token"]
    assert table.meta["loss_unit"] == "mixed"


# --- params --------------------------------------------------------------------------------------


def test_several_counts_need_one_chosen(tmp_path: Path) -> None:
    text = "params_total,params_non_embedding,tokens,loss\n5,4,2,3\n9,8,2,3\n"
    assert "counted as total, non_embedding; say which is meant with --n-kind" in refusal(
        tmp_path, text
    )
    table = read(tmp_path, text, params_kind="non_embedding")
    assert table["params"].tolist() == [4, 8]
    assert table["params_kind"].tolist() == ["non_embedding"] * 2


def test_one_count_is_taken_and_said(tmp_path: Path) -> None:
    table = read(tmp_path, "params_total,tokens,loss\n5e6,2e7,3\n")
    assert table["params"].tolist() == [5e6]
    assert "params are column params_total, counted as total" in table.meta["assumed"]


def test_a_source_without_params_is_refused_with_three_ways_out(tmp_path: Path) -> None:
    message = refusal(tmp_path, "n_params,tokens,loss\n5,2,3\n")
    for way in ("did you mean", "--map params=COLUMN", "--map params=124e6", "--facts FILE"):
        assert way in message
    table = read(tmp_path, "tokens,loss\n2e7,3\n", {"params": "124e6"})
    assert table["params"].tolist() == [124e6]


def test_flops_alone_are_enough_for_a_law_of_compute(tmp_path: Path) -> None:
    table = read(tmp_path, "flops,loss\n1e18,3\n1e19,2.5\n")
    assert "params" not in table


# --- flops ---------------------------------------------------------------------------------------


def test_missing_flops_are_computed_by_a_rule_that_is_stored_and_said(tmp_path: Path) -> None:
    table = read(tmp_path, PLAIN, params_kind="total")
    assert table["flops"].tolist() == [6 * 1e6 * 2e7, 6 * 2e6 * 4e7]
    assert table["flops_kind"].tolist() == ["6N_total"] * 2
    assert any("6 x params x tokens" in said for said in table.meta["assumed"])


def test_given_flops_are_kept_and_their_count_is_unstated_unless_said(tmp_path: Path) -> None:
    text = "params,tokens,flops,loss\n1e6,2e7,1e15,3.5\n"
    assert read(tmp_path, text)["flops"].tolist() == [1e15]
    assert read(tmp_path, text).meta["flops_kind"] == "unstated"
    assert read(tmp_path, text, flops_kind="exact").meta["flops_kind"] == "exact"


def test_flops_by_another_rule_than_the_params_allow_are_refused(tmp_path: Path) -> None:
    assert "no FLOPs counted as exact" in refusal(tmp_path, PLAIN, flops_kind="exact")
    assert "no FLOPs counted as 6N_total" in refusal(
        tmp_path, PLAIN, params_kind="non_embedding", flops_kind="6N_total"
    )
    text = "params_total,params_non_embedding,tokens,loss\n5e6,4e6,2e7,3\n"
    table = read(tmp_path, text, params_kind="non_embedding", flops_kind="6N_total")
    assert table["flops"].tolist() == [6 * 5e6 * 2e7]


# --- logs ----------------------------------------------------------------------------------------


def test_a_log_says_all_that_was_assumed_and_a_fit_can_repeat_it(tmp_path: Path) -> None:
    path = put(tmp_path, NANOGPT, "train.log")
    reading = Reading({"loss": "val_loss"}, params_kind="total", smooth=2)
    table = read_runs(path, reading)
    assert table["loss"].tolist() == [pytest.approx((10.9897 + 9.1234) / 2, rel=1e-15)]
    assert table["flags"].tolist() == ["smoothed_2"]
    assert table["run"].tolist() == ["train"]
    told = " | ".join(table.meta["assumed"])
    for word in (
        "read as nanogpt",
        "loss is val_loss, in nats/token",
        "counted as total",
        "6 x params x tokens",
        "step times the tokens per iteration",
        "the last checkpoint with a loss stands for each run, at step 20",
        "mean of the last 2",
    ):
        assert word in told
    kept = json.loads(json.dumps({"mapping": table.meta["mapping"], **table.meta["reading"]}))
    again = read_runs(path, Reading(**kept))
    assert again.meta["sha256"] == table.meta["sha256"]
    assert again["loss"].tolist() == table["loss"].tolist()


def test_logs_of_one_kind_become_one_table_with_the_common_facts_told_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path, NANOGPT, f"{name}.log")
    table = collect([tmp_path], Reading({"loss": "val_loss"}, params_kind="total"))
    assert table["run"].tolist() == ["a", "b"]
    assert table["source"].tolist() == [str(tmp_path / f"{x}.log") for x in "ab"]
    assert len(table.meta["assumed"]) == len(set(table.meta["assumed"])) == 6
    assert not any("a.log" in said for said in table.meta["assumed"])


@pytest.mark.parametrize("example", sorted(EXAMPLES))
def test_no_log_is_collected_without_its_loss_named(example: str, tmp_path: Path) -> None:
    """A format may know its losses; which of them a law is fitted to is the user's to say."""
    if example == "parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    path = EXAMPLES[example][0](tmp_path)
    if example.split(maxsplit=1)[0] in ("csv", "jsonl", "parquet"):
        assert len(collect([path], Reading({"params": "1e6"}))) > 0
    else:
        with pytest.raises(InputError, match="--map loss="):
            collect([path], Reading({"params": "1e6"}))


def test_a_run_that_died_before_its_first_evaluation_keeps_its_row(tmp_path: Path) -> None:
    for name, text in (
        ("a", "epoch,step,train_loss,val_loss\n0,9,4.5,\n0,9,,4.25\n"),
        ("b", "epoch,step,train_loss\n0,4,5.5\n"),
    ):
        (tmp_path / name).mkdir()
        put(tmp_path / name, text, "metrics.csv")
    (tmp_path / "a" / "hparams.yaml").write_text("width: 64\n")
    (tmp_path / "b" / "hparams.yaml").write_text("width: 128\n")
    table = collect([tmp_path], Reading({"loss": "val_loss", "params": "hparams.width*1e4"}))
    assert table["run"].tolist() == ["a", "b"]
    assert table["params"].tolist() == [64e4, 128e4]
    np.testing.assert_array_equal(table["loss"], [4.25, np.nan])
    assert any("1 of 2 runs have no loss: b" in note for note in table.meta["notes"])
    assert not any("not read" in note for note in table.meta["notes"])


ANSWERS = {
    "csv": {},
    "csv tsv": {},
    "jsonl": {},
    "jsonl array": {},
    "parquet": {},
    "nanogpt": {"loss": "val_loss"},
    "nanochat": {"loss": "val_bpb"},
    "hf_trainer": {"loss": "eval_loss"},
    "lightning": {"loss": "val_loss", "tokens": "(step + 1) * 512"},
    "wandb runs": {"loss": "val/loss"},
    "wandb history": {"loss": "val/loss"},
    "wandb history json": {"loss": "val/loss"},
    "wandb chart": {"loss": "val/loss"},
    "wandb script": {"loss": "summary.val.loss", "tokens": "20 * config.n_params"},
    "tensorboard": {"loss": "loss/val"},
}


@pytest.mark.parametrize("example", sorted(EXAMPLES))
def test_every_format_is_collected_once_its_questions_are_answered(
    example: str, tmp_path: Path
) -> None:
    if example == "parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    path = EXAMPLES[example][0](tmp_path)
    table = collect([path], Reading({"params": "1e6", **ANSWERS[example]}))
    assert set(table.meta["assumed"])
    assert np.isfinite(table["loss"]).any()
    assert set(table["params"]) == {1e6}
    assert {"loss_unit", "params_kind"} <= table.columns.keys()
    write_table(table, tmp_path / "data.csv")
    again = collect([tmp_path / "data.csv"])
    assert again["loss"].tolist() == pytest.approx(table["loss"].tolist(), rel=0, nan_ok=True)


def test_a_table_that_states_its_kinds_in_part_is_told(tmp_path: Path) -> None:
    text = "params,params_kind,tokens,loss\n1e6,total,2e7,3\n2e6,,2e8,2\n"
    (note,) = read(tmp_path, text).meta["notes"]
    assert "params_kind is stated in 1 rows and not in 1" in note


def test_a_table_whose_rows_are_checkpoints_must_be_told_which_to_take(tmp_path: Path) -> None:
    text = "run,step,params,tokens,loss\na,1,5e6,1e7,4\na,2,5e6,2e7,3\nb,1,6e6,1e7,3.5\n"
    assert "3 rows of 2 runs at different steps; say which stand for a run" in refusal(
        tmp_path, text
    )
    assert read(tmp_path, text, at="final")["loss"].tolist() == [3, 3.5]
    every = read(tmp_path, text, at="every")
    assert every["run"].tolist() == ["a@1", "a@2", "b@1"]
    write_table(every, tmp_path / "data.csv")
    assert len(collect([tmp_path / "data.csv"])) == 3


def test_asking_rows_of_runs_for_a_checkpoint_is_told_to_change_nothing(tmp_path: Path) -> None:
    assert "change nothing" in read(tmp_path, PLAIN, at="best").meta["notes"][0]


# --- facts ---------------------------------------------------------------------------------------


def logs_and_facts(folder: Path, facts: str) -> tuple[Path, str]:
    for name in ("a", "b"):
        put(folder, "step 10: train loss 3.0, val loss 3.5\n", f"{name}.log")
    return folder, str(put(folder, facts, "facts.csv"))


def test_facts_are_joined_by_the_name_of_the_run(tmp_path: Path) -> None:
    folder, facts = logs_and_facts(
        tmp_path, "run,params_total,batch,opt\nb,2e6,512,lion\na,1e6,256,adam\nc,1,1,x\n"
    )
    mapping = {"loss": "val_loss", "tokens": "step * batch"}
    table = collect([folder / "a.log", folder / "b.log"], Reading(mapping, facts=facts))
    assert table["params"].tolist() == [1e6, 2e6]
    assert table["tokens"].tolist() == [2560, 5120]
    assert table["opt"].tolist() == ["adam", "lion"]
    assert any("1 of its runs were not found: 'c'" in note for note in table.meta["notes"])


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ("name,params\na,1\n", "no column 'run'"),
        ("run,params\na,1\na,2\n", "run 'a' stands twice"),
        ("run,val_loss\na,1\n", "'val_loss' is a column of"),
        ("run,params\nx,1\n", "none of its runs was read, 'a' were"),
    ],
)
def test_facts_that_cannot_be_joined_are_refused(tmp_path: Path, facts: str, says: str) -> None:
    folder, path = logs_and_facts(tmp_path, facts)
    with pytest.raises(InputError, match=says):
        collect([folder / "a.log"], Reading({"loss": "val_loss"}, facts=path))


def test_a_run_without_facts_is_missing_them_and_told(tmp_path: Path) -> None:
    folder, facts = logs_and_facts(tmp_path, "run,params_total\na,1e6\n")
    table = collect(
        [folder / "a.log", folder / "b.log"], Reading({"loss": "val_loss"}, facts=facts)
    )
    assert table["params"].tolist()[0] == 1e6
    assert math.isnan(table["params"][1])
    assert any("params is missing or not finite in 1 row" in n for n in table.meta["notes"])
    assert any("has nothing of 1 run: 'b'" in n for n in table.meta["notes"])


# --- doubts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("params,tokens,loss\n1e6,2e7,nan\n2e6,2e8,3\n", "loss is missing or not finite in 1 row"),
        ("params,tokens,loss\n1e6,2e7,nan\n2e6,2e8,\n", "loss is missing or not finite in 2 rows"),
        ("params,tokens,loss\n1e6,2e7,inf\n2e6,2e8,3\n", "loss is missing or not finite in 1 row"),
        ("params,tokens,loss\n1e6,0,3\n2e6,2e8,3\n", "tokens is not positive in 1 row,.*row 1"),
        ("params,tokens,loss\n1e6,1e7,3\n2e6,2e8,-3\n", "loss is not positive.*row 2 with -3"),
        (
            "params,tokens,loss,loss_sem\n1e6,1e7,3,0.1\n2e6,2e8,2,-0.1\n3e6,3e8,2,inf\n",
            "loss_sem is negative or not finite in 2 rows, the first is row 2 with -0.1",
        ),
        (
            "params,tokens,loss,loss_sem\n1e6,1e7,3,about 0.1\n2e6,2e8,2,0.1\n",
            "loss_sem holds words, so no evaluation's error is known",
        ),
        ("params,tokens,loss\n1e6,1e7,3\n1e6,2e8,2\n", "params, the same in every row, 1e.06"),
        ("params,tokens,loss\n774,1e9,3\n1.3e9,2e9,2\n", "params jump from 774 to 1.3e.09.*mixed"),
        (
            "params,tokens,loss\n70,1e9,3\n16000,2e9,2\n",
            r"begin at 70; if they are millions or billions",
        ),
        (
            "params,tokens,loss\n124,1e9,3\n350,2e9,2\n",
            r"begin at 124; .* or --map 'params=params\*1e9'",
        ),
        (
            "params,tokens,flops,loss\n1e7,3e9,0.0021,3\n2e7,2e9,0.0028,2\n",
            "flops are 7e-20 x params x tokens, .*PF-days",
        ),
        (
            "params,tokens,flops,loss\n1e7,3,1.8e17,3\n2e7,2,2.4e17,2\n",
            r"flops are 6e.09 x params x tokens, .*tokens=tokens\*1e9",
        ),
        ("params,tokens,loss\n1e6,1e7,3\n1e6,1e7,3\n2e6,1e8,2\n", "1 row repeats the"),
    ],
)
def test_doubtful_numbers_are_kept_and_told(tmp_path: Path, text: str, says: str) -> None:
    import re

    table = read(tmp_path, text)
    assert len(table) == text.count("\n") - 1
    assert [n for n in table.meta["notes"] if re.search(says, n)], table.meta["notes"]


def test_runs_that_lie_nowhere_near_their_budget_are_told(tmp_path: Path) -> None:
    rows = "1e7,1e9,{},3,done\n2e7,5e8,6e16,2.9,done\n3e7,1e7,6e16,9,running\n"
    says = "in 1 row, the first is row 1 with flops 6e+16 and budget 6e+17"
    for budget, told in (("6e17", [True]), ("1e17", []), ("", [])):
        text = f"params,tokens,budget,loss,status\n{rows.format(budget)}"
        notes = [n for n in read(tmp_path, text).meta["notes"] if "off the budget" in n]
        assert [says in note for note in notes] == told


@pytest.mark.parametrize("factor", [0.06, 2, 6, 12_500])
def test_flops_of_any_count_are_not_doubted(tmp_path: Path, factor: float) -> None:
    """Of 768 params beside a head of 50k tokens, the smallest of Kaplan et al.: 12500."""
    rows = "".join(f"{n},{d},{factor * n * d},3\n" for n, d in ((1e6, 1e8), (1e7, 1e9)))
    notes = read(tmp_path, f"params,tokens,flops,loss\n{rows}").meta["notes"]
    assert not [note for note in notes if "x params x tokens" in note]


@pytest.mark.parametrize(
    ("column", "cells", "says"),
    [
        ("loss_unit", ("nats/tokn",) * 2, "'nats/tokn' in 2 rows, .*; did you mean 'nats/token'?"),
        ("loss_unit", ("bpb",) * 2, "'bpb' in 2 rows, .*; did you mean 'bits/byte'?"),
        ("loss_unit", ("accuracy",) * 2, "'accuracy' in 2 rows, .*; choose from bits/byte, "),
        ("params_kind", ("totl", ""), "'totl' in 1 row, .*; did you mean 'total'?"),
        ("flops_kind", ("6N_totl",) * 2, "'6N_totl' in 2 rows, .*; did you mean '6N_total'?"),
    ],
)
def test_a_unit_that_nobody_knows_is_told_with_the_nearest(
    tmp_path: Path, column: str, cells: tuple[str, str], says: str
) -> None:
    import re

    text = f"params,tokens,flops,loss,{column}\n1e6,1e7,6e13,3,{cells[0]}\n"
    table = read(tmp_path, f"{text}2e6,2e8,2.4e15,2,{cells[1]}\n")
    told = [note for note in table.meta["notes"] if "not known here" in note]
    assert len(told) == 1
    assert re.search(f"{column} is {says}".replace("?", r"\?"), told[0]), told


@pytest.mark.parametrize("kind", ["total", "unstated", "own"])
def test_flops_that_are_computed_are_as_well_known_as_their_params(
    tmp_path: Path, kind: str
) -> None:
    text = f"params,tokens,loss,params_kind\n1e6,1e7,3,{kind}\n2e6,2e8,2,{kind}\n"
    told = [note for note in read(tmp_path, text).meta["notes"] if "not known here" in note]
    assert len(told) == (kind == "own")


def test_sound_numbers_raise_no_doubt(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN).meta["notes"] == ()


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ('"2,5"', "a comma may divide decimals or thousands"),
        ("124M", "write it as 1.24e+08"),
        ('"1,234,567"', "a comma may divide decimals or thousands"),
        ("abc", "mend the cell"),
    ],
)
def test_a_cell_that_is_no_number_is_refused_with_how_to_write_it(
    tmp_path: Path, cell: str, says: str
) -> None:
    message = refusal(tmp_path, f"params,tokens,loss\n1e6,2e7,3\n{cell},2e7,3\n")
    assert f"in row 2; {says}" in message


def test_sources_that_state_less_than_others_are_told(tmp_path: Path) -> None:
    first = put(tmp_path, "params,params_kind,tokens,loss\n1e6,total,2e7,3\n", "a.csv")
    second = put(tmp_path, PLAIN, "b.csv")
    notes = collect([first, second]).meta["notes"]
    assert any(
        f"{second}: params_kind is not stated, and other sources say total" in n for n in notes
    )


def test_kinds_that_do_not_exist_are_usage_errors(tmp_path: Path) -> None:
    path = put(tmp_path, PLAIN)
    for reading in (
        Reading(params_kind="totl"),
        Reading(flops_kind="exat"),
        Reading(loss_unit="nat"),
        Reading(at="lst"),
        Reading(smooth=0),
    ):
        with pytest.raises(UsageError):
            collect([path], reading)


def test_a_reading_is_stored_by_what_was_asked_alone() -> None:
    assert Reading().to_json() == {}
    asked = Reading({"loss": "x"}, at="best", smooth=3)
    assert asked.to_json() == {"mapping": {"loss": "x"}, "at": "best", "smooth": 3}
    assert np.all([Reading(**asked.to_json()) == asked])
