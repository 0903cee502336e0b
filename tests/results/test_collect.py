"""Collecting: what a row says of a run in each state, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from scalekit.errors import InputError, UsageError
from scalekit.results.collect import collect, read_runs
from scalekit.results.columns import require
from scalekit.results.jobs import SCHEMA, JobLog
from scalekit.results.reading import Reading
from scalekit.results.record import SCHEMA as RUN
from scalekit.results.record import RecordWriter
from scalekit.results.states import read_state
from scalekit.results.table import COLUMNS, read_table, write_table


def row(table, run: int) -> dict:
    place = table["run"].tolist().index(f"{run:010x}")
    return {name: column[place] for name, column in table.columns.items()}


def test_a_finished_run_has_its_last_held_out_loss_and_the_plans_counts(make_sweep) -> None:
    folder, lines = make_sweep(2, r0="done", r1="done")
    table = collect([folder.root])
    assert len(table) == 2
    first, plan = row(table, 0), lines[0]["plan"]
    assert first["loss"] == 2.0
    assert first["loss_sem"] == 0.01
    assert first["loss_unit"] == "nats/token"
    assert first["step"] == 40
    assert first["tokens"] == 40960
    assert first["params"] == plan["params"]["non_embedding"]
    assert first["params_kind"] == "non_embedding"
    assert first["flops"] == plan["flops"]["exact"]
    assert first["flops_6N_total"] == plan["flops"]["6N_total"]
    assert first["params_total"] == plan["params"]["total"]
    assert (first["entropy"], first["oracle_loss"]) == (1.5, 1.51)
    assert first["unique_tokens"] == 10**6
    assert first["code"] == "1.0+abc"
    assert first["flags"] == ""
    assert first["source"] == "demo"
    assert math.isnan(first["budget"])
    assert row(table, 1)["budget"] == 1e12


def test_every_column_of_the_contract_is_there_in_order(make_sweep) -> None:
    folder, _ = make_sweep(3, r0="done", r1="diverged")
    assert list(collect([folder.root]).columns)[: len(COLUMNS)] == COLUMNS


def test_swept_keys_are_the_ones_that_differ(make_sweep) -> None:
    folder, _ = make_sweep(4)
    columns = collect([folder.root]).columns
    assert [name for name in columns if "." in name] == ["model.n_layers", "train.seed"]


def test_asking_for_another_count_changes_the_column_and_its_label(make_sweep) -> None:
    folder, lines = make_sweep(2, r0="done")
    table = collect([folder.root], Reading(params_kind="total", flops_kind="6N_total"))
    assert row(table, 0)["params"] == lines[0]["plan"]["params"]["total"]
    assert table.meta["params_kind"] == "total"
    assert row(table, 0)["flops"] == lines[0]["plan"]["flops"]["6N_total"]
    assert any("budgets stay counted as exact" in note for note in table.meta["notes"])


def test_an_unknown_count_is_a_usage_error_with_the_nearest(make_sweep) -> None:
    folder, _ = make_sweep(1)
    with pytest.raises(UsageError, match="did you mean 'non_embedding'"):
        collect([folder.root], Reading(params_kind="nonembedding"))


def test_a_run_that_is_not_finished_has_no_loss(make_sweep) -> None:
    folder, _ = make_sweep(3, r0=None)
    with RecordWriter(folder.record(f"{1:010x}")) as record:
        record.write("run", schema="scalekit.run/1", id=f"{1:010x}", config={}, plan={})
        table = collect([folder.root])
    assert table["status"].tolist() == ["stopped", "running", "pending"]
    assert np.isnan(table["loss"]).all()
    assert table["tokens"].tolist() == [40960] * 3


def test_a_run_that_ended_early_counts_tokens_and_flops_up_to_its_loss(make_sweep) -> None:
    folder, lines = make_sweep(1, r0="diverged")
    only = row(collect([folder.root]), 0)
    assert only["status"] == "diverged"
    assert (only["step"], only["tokens"]) == (20, 20480)
    assert only["flops"] == pytest.approx(lines[0]["plan"]["flops"]["exact"] / 2, rel=1e-12)
    assert only["flops_6N_total"] == pytest.approx(
        lines[0]["plan"]["flops"]["6N_total"] / 2, rel=1e-12
    )


def test_a_done_record_whose_last_loss_is_not_at_the_end_is_flagged(make_sweep) -> None:
    folder, lines = make_sweep(1)
    make_sweep.write_record(folder, lines[0], "done", stop_at=20)
    only = row(collect([folder.root]), 0)
    assert only["flags"] == "not_at_end"
    assert only["tokens"] == 20480


def test_resumed_torn_and_changed_code_are_flagged(make_sweep) -> None:
    folder, lines = make_sweep(1)
    path = make_sweep.write_record(folder, lines[0], None, stop_at=20)
    with path.open("ab") as file:
        file.write(b'{"t": "step", "step": 30, "lo')
    with RecordWriter(path) as record:
        record.write("attempt", n=2, code="1.0+def", resumed_from=20)
        record.write("eval", step=40, tokens=40960, val_loss=1.9)
        record.write("end", status="done", wall_s=1.0)
    only = row(collect([folder.root]), 0)
    assert only["flags"] == "resumed torn code_changed"
    assert only["loss"] == 1.9


def write_intent(folder, run: str, code: str) -> None:
    log = JobLog(folder)
    command = {"host": "h", "pid": 1, "born": "x"}
    log.write("intent", schema=SCHEMA, executor="local", command=command, code=code, runs=[run])


def test_code_that_changed_between_submission_and_start_is_flagged(make_sweep) -> None:
    folder, lines = make_sweep(3, r0="done", r1="done", r2="done")
    first, second, third = (line["id"] for line in lines)
    # The records' attempts are by 1.0+abc.
    write_intent(folder, first, "1.0+abc")
    write_intent(folder, second, "1.0+old")
    # Submitted twice, and trained by the code of the second command.
    write_intent(folder, third, "1.0+old")
    write_intent(folder, third, "1.0+abc")
    table = collect([folder.root])
    assert table["flags"].tolist() == ["", "code_changed", ""]
    assert [note for note in table.meta["notes"] if "code" in note] == [
        f"{folder.root}: the code changed between submission and start, or between attempts, of "
        "1 run; flags has code_changed there"
    ]


def test_a_table_that_mixes_code_states_says_so_wherever_it_is_read(make_sweep, tmp_path) -> None:
    folder, lines = make_sweep(3, r0="done", r1="done")
    assert not any("code" in note for note in collect([folder.root]).meta["notes"])
    with RecordWriter(folder.record(lines[2]["id"])) as record:
        record.write("run", schema=RUN, id=lines[2]["id"], config=lines[2]["config"])
        record.write("attempt", n=1, code="1.0+def", resumed_from=0)
        record.write("eval", step=40, tokens=40960, val_loss=1.9)
        record.write("end", status="done", wall_s=1.0)
    table = collect([folder.root])
    said = "mixes runs of 2 states of the code, 1.0+abc made 2, 1.0+def made 1"
    assert any(said in note for note in table.meta["notes"])
    write_table(table, tmp_path / "data.csv")
    assert any(said in note for note in read_runs(tmp_path / "data.csv").meta["notes"])


def test_an_end_without_a_header_is_no_result_to_anyone(make_sweep) -> None:
    folder, lines = make_sweep(2, r0="done", r1="done")
    path = folder.record(lines[0]["id"])
    first, _, rest = path.read_bytes().partition(b"\n")
    # As when the file is cut while its writer, on a node that was lost, goes on.
    path.write_bytes(first[:40] + rest)
    table = collect([folder.root])
    assert table["status"].tolist() == ["unreadable", "done"]
    assert [read_state(folder.record(line["id"])).status for line in lines] == [
        "unreadable",
        "done",
    ]


def test_a_null_loss_is_flagged_and_missing(make_sweep) -> None:
    folder, lines = make_sweep(1)
    path = make_sweep.write_record(folder, lines[0], None)
    with RecordWriter(path) as record:
        record.write("eval", step=40, tokens=40960, val_loss=float("nan"))
        record.write("end", status="diverged")
    only = row(collect([folder.root]), 0)
    assert math.isnan(only["loss"])
    assert only["flags"] == "no_loss"


def test_an_unreadable_record_is_named_and_the_other_runs_are_kept(make_sweep) -> None:
    folder, _ = make_sweep(3, r0="done", r1="done", r2="done")
    folder.record(f"{1:010x}").write_bytes(b"\x00\x01garbage\n" * 100)
    table = collect([folder.root])
    assert table["status"].tolist() == ["done", "unreadable", "done"]
    assert math.isnan(table["loss"][1])
    (note,) = table.meta["notes"]
    assert f"{1:010x}.jsonl: no run header" in note


def test_a_record_of_another_run_under_this_name_is_unreadable(make_sweep) -> None:
    folder, lines = make_sweep(2, r0="done")
    folder.record(lines[1]["id"]).write_bytes(folder.record(lines[0]["id"]).read_bytes())
    table = collect([folder.root])
    assert table["status"].tolist() == ["done", "unreadable"]
    assert "holds run '0000000000'" in table.meta["notes"][0]


def test_records_outside_the_plan_are_reported_and_left_out(make_sweep) -> None:
    folder, lines = make_sweep(2, r0="done", r1="done")
    folder.plan_file.write_text(json.dumps(lines[0]) + "\n")
    table = collect([folder.root])
    assert table["run"].tolist() == [lines[0]["id"]]
    assert (
        f"1 records belong to no run of the plan and are left out: {lines[1]['id']}"
        in (table.meta["notes"][0])
    )


def test_the_tables_hash_is_that_of_the_written_file(make_sweep, tmp_path: Path) -> None:
    folder, _ = make_sweep(3, r0="done", r1="failed")
    table = collect([folder.root])
    write_table(table, folder.table_file)
    text = folder.table_file.read_bytes()
    assert table.meta["sha256"] == hashlib.sha256(text).hexdigest()
    again = read_table(folder.table_file)
    assert again.meta["params_kind"] == "non_embedding"
    for name in ("loss", "tokens", "flops", "params"):
        np.testing.assert_array_equal(again[name], table[name])


def test_a_sweep_and_a_foreign_table_become_one(make_sweep, tmp_path: Path) -> None:
    folder, _ = make_sweep(2, r0="done", r1="done")
    path = tmp_path / "theirs.csv"
    path.write_text("N,D,val\n1e6,2e7,3.5\n")
    table = collect(
        [folder.root, path],
        Reading({"params": "N", "tokens": "D", "loss": "val"}, params_kind="non_embedding"),
    )
    assert table["loss"].tolist() == [2.0, 2.0, 3.5]
    assert table["params_kind"].tolist() == ["non_embedding"] * 3
    assert table["loss_unit"].tolist() == ["nats/token", "nats/token", "unstated"]
    require(table, ["params", "tokens", "loss"])


def test_a_foreign_table_that_states_another_count_is_not_relabelled(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("params,params_kind,loss\n1,total,2\n")
    with pytest.raises(InputError, match="params are counted as total, not non_embedding"):
        collect([path], Reading(params_kind="non_embedding"))


def test_a_foreign_table_that_states_nothing_is_called_unstated(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("params,tokens,loss\n1,2,3\n")
    meta = collect([path]).meta
    assert (meta["params_kind"], meta["loss_unit"]) == ("unstated",) * 2
    assert meta["flops_kind"] == "6N_unstated"


def test_an_empty_plan_is_refused(make_sweep) -> None:
    folder, _ = make_sweep(0)
    with pytest.raises(InputError, match=r"plan\.jsonl: no runs in it"):
        collect([folder.root])


def test_options_of_reading_hold_for_a_sweeps_folder_as_for_its_table(make_sweep, tmp_path) -> None:
    folder, _ = make_sweep(2, r0="done", r1="done")
    facts = tmp_path / "facts.csv"
    facts.write_text(f"run,proximity\n{0:010x},0.5\n{1:010x},0.25\n")
    reading = Reading({"finetune_tokens": "tokens", "loss": "val_bpb"}, facts=str(facts))
    table = collect([folder.root], reading)
    assert table["finetune_tokens"].tolist() == table["tokens"].tolist()
    assert table["loss"].tolist() == table["val_bpb"].tolist()
    assert table.meta["loss_unit"] == "bits/byte"
    assert table["proximity"].tolist() == [0.5, 0.25]
    assert list(table.columns)[: len(COLUMNS)] == COLUMNS
    assert "loss is val_bpb, in bits/byte" in table.meta["remarks"]


def test_an_option_that_a_sweeps_folder_cannot_follow_is_refused_or_named(make_sweep) -> None:
    folder, _ = make_sweep(1, r0="done")
    with pytest.raises(InputError, match="--map params='wte'"):
        collect([folder.root], Reading({"params": "wte"}))
    with pytest.raises(InputError, match="'loss' is in nats/token, not bits/token"):
        collect([folder.root], Reading(loss_unit="bits/token"))
    (note,) = collect([folder.root], Reading(at="best", smooth=3)).meta["notes"]
    assert note.endswith("stand for their last evaluation; --at and --smooth change nothing")
