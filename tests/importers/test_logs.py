"""What each format's importer takes from a log, and what it must not take for something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_examples import EXAMPLES, NANOCHAT, NANOGPT, TRAINER_STATE

from scalekit import registry
from scalekit.errors import InputError
from scalekit.importers.base import Imported, Source


def read(example: str, folder: Path) -> Imported:
    path = EXAMPLES[example][0](folder)
    importer = registry.find("importers", example.split(maxsplit=1)[0])
    return importer.read([Source(path, "run1")], ())


def read_text(importer: str, folder: Path, text: str, name: str = "train.log") -> Imported:
    path = folder / name
    path.write_text(text)
    return registry.find("importers", importer).read([Source(path, "run1")], ())


# --- nanoGPT -------------------------------------------------------------------------------------


def test_a_nanogpt_log_gives_losses_tokens_and_both_counts(tmp_path: Path) -> None:
    columns = read("nanogpt", tmp_path).columns
    assert columns["step"] == [0, 10, 20, 30]
    assert columns["val_loss"] == [10.9897, None, 9.1234, None]
    assert columns["train_loss"] == [10.9898, None, 9.1, None]
    assert columns["batch_loss"] == [10.9886, 9.6013, 9.0456, 8.9]
    assert columns["tokens"] == [0, 4915200, 9830400, 14745600]
    # GPT-2 small with 50304 words: 12 layers of 12 d^2 + 2 norms, final norm, tied embedding and
    # 1024 positions, without biases: what the two groups sum to, and their own count without wpe.
    d, vocab = 768, 50304
    total = 12 * (12 * d * d + 2 * d) + d + vocab * d + 1024 * d
    assert columns["params_total"] == [total] * 4
    assert columns["params_non_embedding_head"] == [123_590_000] * 4
    assert total - 1024 * d == pytest.approx(123_590_000, abs=5000)


def test_colours_prefixes_and_progress_bars_do_not_hide_a_line(tmp_path: Path) -> None:
    text = (
        "\x1b[32mstep 0: train loss 3.0, val loss 3.5\x1b[0m\n"
        " 10%|#\r[rank0]: iter 10: loss 2.5, time 9ms"
    )
    columns = read_text("nanogpt", tmp_path, text).columns
    assert columns["step"] == [0, 10]
    assert columns["val_loss"] == [3.5, None]


def test_a_log_with_bytes_that_are_no_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"caf\xe9\n" + NANOGPT.encode())
    importer = registry.find("importers", "nanogpt")
    assert importer.recognise(Source(path))
    assert len(importer.read([Source(path)], ()).columns["step"]) == 4


def test_a_resumed_log_counts_what_was_logged_last(tmp_path: Path) -> None:
    again = "step 20: train loss 9.0, val loss 9.0500\niter 20: loss 9.1, time 9ms\n"
    told = read_text("nanogpt", tmp_path, NANOGPT + again)
    assert told.columns["step"] == [0, 10, 20]
    assert told.columns["val_loss"][2] == 9.05
    assert "was resumed; 2 steps" in told.notes[0]


def test_two_runs_in_one_log_are_refused_with_the_line(tmp_path: Path) -> None:
    lines = len(NANOGPT.splitlines())
    with pytest.raises(InputError, match=rf"train.log:{lines + 9}: step 0 after step 30"):
        read_text("nanogpt", tmp_path, NANOGPT + NANOGPT)


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_a_loss_that_is_not_finite_at_the_end_is_a_diverged_run(tmp_path: Path, word: str) -> None:
    told = read_text("nanogpt", tmp_path, NANOGPT + f"step 40: train loss {word}, val loss {word}")
    assert told.columns["status"] == ["diverged"] * 5
    assert "it is called diverged" in told.notes[0]


# --- nanochat ------------------------------------------------------------------------------------


def test_a_nanochat_log_gives_bits_tokens_flops_and_three_counts(tmp_path: Path) -> None:
    told = read("nanochat", tmp_path)
    last = {name: column[-1] for name, column in told.columns.items()}
    assert told.columns["step"] == [0, 20, 39, 40]
    assert told.columns["val_bpb"] == [3.219846, None, None, 1.812346]
    assert told.loss_units["val_bpb"] == "bits/byte"
    assert told.loss_units["train_loss"] == "nats/token"
    assert last["params_total"] == 210_763_800
    assert last["params_non_embedding_head"] == 84_934_656 + 24 + 50_331_648
    assert last["params_non_embedding"] == 84_934_656 + 24
    assert last["tokens"] == 40 * 524_288 == 20_971_520  # as the log's own total says
    assert last["flops"] == pytest.approx(1.887437e16, rel=1e-6)  # likewise
    assert last["status"] == "done"


def test_an_unfinished_nanochat_run_is_stopped(tmp_path: Path) -> None:
    text = NANOCHAT.partition("step 00039")[0]
    assert read_text("nanochat", tmp_path, text).columns["status"][0] == "stopped"


def test_an_older_nanochat_log_gives_its_one_number_of_parameters(tmp_path: Path) -> None:
    text = "Number of parameters: 560,988,160\n" + NANOCHAT.partition("scalars ")[2]
    columns = read_text("nanochat", tmp_path, text).columns
    assert columns["params_total"][0] == 560_988_160
    assert "params_non_embedding" not in columns


# --- Hugging Face --------------------------------------------------------------------------------


def test_a_trainers_means_are_not_taken_for_losses_at_a_step(tmp_path: Path) -> None:
    columns = read("hf_trainer", tmp_path).columns
    assert columns["step"] == [10, 20]
    assert columns["train_loss"] == [5.5, 4.5]
    assert columns["eval_loss"] == [5.25, 4.25]
    assert columns["train_loss_mean"] == [5.0, 5.0]
    assert columns["tokens"] == [None, 40960]
    assert columns["flops"] == [None, 6e12]
    assert columns["status"] == ["done", "done"]


def test_what_a_trainer_did_not_count_is_missing_and_not_zero(tmp_path: Path) -> None:
    state = {**TRAINER_STATE, "num_input_tokens_seen": 0, "total_flos": 0.0}
    columns = read_text("hf_trainer", tmp_path, json.dumps(state), "trainer_state.json").columns
    assert not {"tokens", "flops"} & set(columns)


def test_of_a_runs_checkpoints_the_last_one_counts(tmp_path: Path) -> None:
    paths = []
    for step, folder in ((10, "checkpoint-10"), (20, "")):
        entries = [e for e in TRAINER_STATE["log_history"] if e["step"] <= step]
        state: dict[str, Any] = {**TRAINER_STATE, "global_step": step, "log_history": entries}
        path = tmp_path / "run1" / folder / "trainer_state.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(state))
        paths.append(path)
    importer = registry.find("importers", "hf_trainer")
    assert {importer.run_folder(path) for path in paths} == {tmp_path / "run1"}
    told = importer.read([Source(path, "run1") for path in paths], ())
    assert told.columns["step"] == [10, 20]
    assert "the 1 earlier checkpoints" in told.remarks[0]


def test_a_stopped_trainer_is_stopped(tmp_path: Path) -> None:
    state = {**TRAINER_STATE, "max_steps": 1000}
    columns = read_text("hf_trainer", tmp_path, json.dumps(state), "trainer_state.json").columns
    assert columns["status"] == ["stopped", "stopped"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"log_history": None}, "no log_history"),
        ({"global_step": "20"}, "global_step is '20'"),
        ({"global_step": 5}, "steps up to 20 were logged"),
        ({"log_history": [{"loss": 1.0}]}, "log_history 1: no step"),
    ],
)
def test_a_trainers_file_that_is_not_whole_is_refused(
    tmp_path: Path, change: dict, says: str
) -> None:
    text = json.dumps({**TRAINER_STATE, **change})
    with pytest.raises(InputError, match=says):
        read_text("hf_trainer", tmp_path, text, "trainer_state.json")


# --- Lightning -----------------------------------------------------------------------------------


def test_lightnings_rows_and_hyperparameters_are_read(tmp_path: Path) -> None:
    path = EXAMPLES["lightning"][0](tmp_path)
    path.with_name("hparams.yaml").write_text("n_params: 1000000\nmodel: {width: 64}\n")
    importer = registry.find("importers", "lightning")
    told = importer.read([Source(path, "version_0")], ())
    np.testing.assert_array_equal(told.columns["val_loss"], [np.nan, 4.25, np.nan, 3.25])
    assert told.columns["hparams.n_params"] == [1_000_000] * 4
    assert told.columns["hparams.model.width"] == [64] * 4
    assert "counted from 0" in told.about["step"]


@pytest.mark.parametrize("text", ["!!python/object:x.Y {}", "a: [", "- 1\n- 2\n", "\x00"])
def test_hyperparameters_that_cannot_be_read_are_left_out_and_told(
    tmp_path: Path, text: str
) -> None:
    path = EXAMPLES["lightning"][0](tmp_path)
    path.with_name("hparams.yaml").write_text(text)
    told = registry.find("importers", "lightning").read([Source(path)], ())
    assert "left out" in told.notes[0]
    assert not [name for name in told.columns if name.startswith("hparams.")]


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_a_lightning_run_whose_loss_ends_in_no_number_is_diverged(
    tmp_path: Path, word: str
) -> None:
    text = f"step,train_loss,val_loss\n49,2.5,\n49,,2.4\n99,{word},\n99,,{word}\n149,,\n"
    told = read_text("lightning", tmp_path, text, "metrics.csv")
    assert told.columns["status"] == ["diverged"] * 5
    assert f"loss {word}; it is called diverged" in told.notes[-1]
    fine = text.replace(f"99,{word}", "99,2.1").replace(f",,{word}", ",,2.2")
    assert "status" not in read_text("lightning", tmp_path, fine, "metrics.csv").columns


# --- Weights & Biases ----------------------------------------------------------------------------


def test_the_runs_table_gives_names_and_states(tmp_path: Path) -> None:
    told = read("wandb runs", tmp_path)
    assert told.columns["run"] == ["calm-sun-1", "wild-sea-2"]
    assert told.columns["status"] == ["done", "failed"]
    assert told.columns["n_params"].tolist() == [1e6, 2e6]
    assert not told.is_history


def test_a_history_has_its_own_steps_and_pandas_index(tmp_path: Path) -> None:
    told = read("wandb history", tmp_path)
    assert told.columns["step"].tolist() == [0, 10, 20]
    assert told.columns["index"].tolist() == [0, 1, 2]
    assert "no name and is called 'index'" in told.remarks[0]


def test_a_history_with_whole_steps_of_its_own_keeps_them(tmp_path: Path) -> None:
    text = "_step,_runtime,step,val/loss\n0,1,100,3\n1,2,200,2\n"
    told = read_text("wandb", tmp_path, text, "h.csv")
    assert told.columns["step"].tolist() == [100, 200]
    assert told.about["step"] == "the script's own"
    text = "_step,_runtime,step,val/loss\n0,1,,3\n1,2,200,2\n"
    assert read_text("wandb", tmp_path, text, "h.csv").columns["step"].tolist() == [0, 1]


RESUMED = """_step,_runtime,step,train_loss,val_loss
0,1,100,3.0,
1,2,100,,3.1
2,3,200,2.8,
3,4,200,,2.9
4,5,250,2.7,
5,6,200,2.6,
6,7,200,,2.5
7,8,300,2.4,
"""


def test_in_a_history_what_a_resumed_run_logs_again_counts_as_logged_last(tmp_path: Path) -> None:
    told = read_text("wandb", tmp_path, RESUMED, "h.csv")
    val, train = told.columns["val_loss"], told.columns["train_loss"]
    np.testing.assert_array_equal(val[np.isfinite(val)], [3.1, 2.5])
    np.testing.assert_array_equal(train[np.isfinite(train)], [3.0, 2.6, 2.4])
    assert told.columns["step"].tolist() == [100, 100, 200, 200, 250, 200, 200, 300]
    assert "the run was resumed; 3 values" in told.notes[-1]


ABANDONED = """_step,_runtime,step,train_loss,val_loss,test_loss
0,1,100,3.0,3.1,
1,2,200,2.8,,
2,3,300,2.7,2.8,
3,4,400,2.6,1.0,0.9
4,5,200,2.9,,
5,6,300,2.8,,
"""


def test_in_a_history_evaluations_of_what_was_given_up_are_left_out(tmp_path: Path) -> None:
    told = read_text("wandb", tmp_path, ABANDONED, "h.csv")
    val = told.columns["val_loss"]
    np.testing.assert_array_equal(val, [3.1, *[np.nan] * 5])
    assert np.isnan(told.columns["test_loss"]).all()
    train = told.columns["train_loss"]
    np.testing.assert_array_equal(train, [3.0, np.nan, np.nan, np.nan, 2.9, 2.8])
    assert "; 3 values that it had logged beyond that place, and not again" in told.notes[0]


def test_in_a_history_evaluations_that_are_logged_late_are_no_resume(tmp_path: Path) -> None:
    text = "_step,_runtime,step,train_loss,val_loss\n0,1,100,3,\n1,2,200,2.9,\n2,3,100,,3.1\n"
    text += "3,4,300,2.8,\n4,5,200,,3.0\n"
    told = read_text("wandb", tmp_path, text, "h.csv")
    np.testing.assert_array_equal(told.columns["val_loss"][[2, 4]], [3.1, 3.0])
    np.testing.assert_array_equal(told.columns["train_loss"][[0, 1, 3]], [3.0, 2.9, 2.8])
    assert not told.notes


@pytest.mark.parametrize("change", ["two runs below each other", "no step goes back"])
def test_in_a_history_nothing_is_forgotten_without_a_resume(tmp_path: Path, change: str) -> None:
    text = "_step,_runtime,step,val_loss\n0,1,100,3\n1,2,200,2\n2,3,200,1\n"
    if change == "two runs below each other":
        text = text.replace("2,3,200,1", "0,3,100,1")
    told = read_text("wandb", tmp_path, text, "h.csv")
    assert told.columns["val_loss"].tolist() == [3, 2, 1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_history_whose_loss_ends_in_no_number_is_diverged(tmp_path: Path, suffix: str) -> None:
    text = "_step,_runtime,step,val_loss\n0,1,100,3\n1,2,200,NaN\n2,3,300,\n"
    if suffix == "jsonl":
        text = """{"_step": 0, "_runtime": 1, "step": 100, "val_loss": 3}
{"_step": 1, "_runtime": 2, "step": 200, "val_loss": "NaN"}
{"_step": 2, "_runtime": 3, "step": 300}
"""
    told = read_text("wandb", tmp_path, text, f"h.{suffix}")
    assert told.columns["status"] == ["diverged"] * 3
    assert "ends with val_loss nan; it is called diverged" in told.notes[-1]


def test_a_history_that_writes_nan_where_it_has_no_value_is_not_called_diverged(
    tmp_path: Path,
) -> None:
    text = "_step,_runtime,train_loss,val_loss\n0,1,NaN,3\n1,2,2,NaN\n"
    assert "status" not in read_text("wandb", tmp_path, text, "h.csv").columns


def test_a_chart_becomes_rows_by_run(tmp_path: Path) -> None:
    told = read("wandb chart", tmp_path)
    assert told.columns["run"] == ["calm-sun-1", "calm-sun-1", "wild - sea", "wild - sea"]
    assert told.columns["step"] == [0, 10, 0, 10]
    np.testing.assert_array_equal(told.columns["val/loss"], [5.5, 4.5, np.nan, 4.25])
    assert "sampled by W&B" in told.notes[-1]


@pytest.mark.parametrize(
    ("names", "runs", "metrics", "is_sure"),
    [
        (["a - _step", "a - val - loss"], {"a"}, {"_step", "val - loss"}, True),
        (["a - b - _step", "a - b - loss"], {"a - b"}, {"_step", "loss"}, True),
        (["a - loss", "a - val - acc"], {"a"}, {"loss", "val - acc"}, True),
        (["a - loss", "b - c - loss"], {"a", "b - c"}, {"loss"}, True),
        (["a - val - loss"], {"a - val"}, {"loss"}, False),
    ],
)
def test_a_dash_in_a_charts_run_or_metric_is_told_from_the_one_between_them(
    tmp_path: Path, names: list[str], runs: set[str], metrics: set[str], is_sure: bool
) -> None:
    header = ",".join(n + end for n in names for end in ("", "__MIN", "__MAX"))
    text = f"Step,{header}\n" + "".join(f"{k}{',3' * 3 * len(names)}\n" for k in range(2))
    told = read_text("wandb", tmp_path, text, "chart.csv")
    assert set(told.columns["run"]) == runs
    assert set(told.columns) == {"run", "step", *metrics}
    assert is_sure == (not [note for note in told.notes if "is taken for" in note])


def test_dictionaries_as_python_prints_them_are_read_without_running_them(tmp_path: Path) -> None:
    told = read("wandb script", tmp_path)
    assert told.columns["run"] == ["calm-sun-1", "wild-sea-2"]
    assert told.columns["config.n_params"] == [1_000_000, 2_000_000]
    assert told.columns["summary.val.loss"] == [3.5, 3.25]
    assert np.isnan(told.columns["summary.aux"][0])
    text = "summary,config,name\n\"__import__('os').getpid()\",{},a\n"
    with pytest.raises(InputError, match="summary 1: not a dictionary"):
        read_text("wandb", tmp_path, text, "evil.csv")


def test_runs_of_one_name_are_told(tmp_path: Path) -> None:
    text = "Name,State,Created,Runtime,loss\na,finished,x,1,2\na,finished,x,1,3\n"
    assert "names are those of several runs" in read_text("wandb", tmp_path, text, "t.csv").notes[0]
    text = "Name,ID,State,Created,loss\na,1x,finished,x,2\na,2x,finished,x,3\n"
    assert read_text("wandb", tmp_path, text, "t.csv").columns["run"] == ["a 1x", "a 2x"]


# --- parquet -------------------------------------------------------------------------------------


def test_parquet_keeps_numbers_words_dates_and_nested_fields(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    import datetime

    path = tmp_path / "t.parquet"
    table = pyarrow.table(
        {
            "run": ["007", None],
            "loss": pyarrow.array([2.5, None]),
            "tokens": pyarrow.array([2**53, 1], pyarrow.int64()),
            "when": [datetime.date(2026, 1, 2), None],
            "model": [{"width": 64, "tied": True}, {"width": 128, "tied": None}],
            "kind": pyarrow.array(["a", "a"]).dictionary_encode(),
        }
    )
    parquet.write_table(table, path)
    columns = registry.find("importers", "parquet").read([Source(path)], {"run"}).columns
    assert columns["run"].tolist() == ["007", ""]
    np.testing.assert_array_equal(columns["loss"], [2.5, np.nan])
    assert columns["tokens"].tolist() == [2**53, 1]
    assert columns["when"].tolist() == ["2026-01-02", ""]
    assert columns["model.width"].tolist() == [64, 128]
    assert columns["model.tied"].tolist() == ["true", ""]
    assert columns["kind"].tolist() == ["a", "a"]


@pytest.mark.parametrize("data", [b"PAR1", b"PAR1 and then nothing PAR1", b"a,b\n1,2\n"])
def test_what_is_not_parquet_is_refused(tmp_path: Path, data: bytes) -> None:
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    path = tmp_path / "t.parquet"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"t\.parquet: not parquet"):
        registry.find("importers", "parquet").read([Source(path)], ())


def test_without_pyarrow_parquet_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"install scalekit-laws\[data\]"):
        registry.find("importers", "parquet").read([Source(path)], ())
