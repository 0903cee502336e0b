"""Runs that branch off one trunk, from the folder of a sweep to the clusters of a fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fit_examples import CHINCHILLA, isoflop_table, with_columns

from scalekit.cli import run
from scalekit.fit.prepare import prepare
from scalekit.fit.rows import select
from scalekit.fit.run import fit, read_fit
from scalekit.results.collect import collect
from scalekit.results.curves import curve_table
from scalekit.results.record import SCHEMA, RecordWriter
from scalekit.results.store import SweepFolder
from scalekit.results.table import RunTable, read_table, write_table

LAW = CHINCHILLA.name


def words(*cells: str) -> np.ndarray:
    found = np.empty(len(cells), dtype=object)
    found[:] = cells
    return found


@pytest.fixture
def ladder(make_sweep) -> SweepFolder:
    """Three planned runs, of which the first two branch off the third; all have their records."""
    folder, lines = make_sweep(3)
    trunk = lines[2]
    for line, step in zip(lines[:2], (20, 30), strict=True):
        line["plan"] |= {"parent": trunk["id"], "branch_step": step}
    folder.plan_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    make_sweep.write_record(folder, trunk)
    for line in lines[:2]:
        last = line["plan"]["branch_step"]
        with RecordWriter(folder.record(line["id"])) as record:
            head = {key: line[key] for key in ("id", "config", "plan")}
            record.write("run", schema=SCHEMA, **head)
            record.write("attempt", n=1, resumed_from=last)
            for step in range(last + 10, 41, 10):
                tokens = step * 1024
                record.write("step", step=step, tokens=tokens, loss=1.9, lr=1e-4)
                record.write("eval", step=step, tokens=tokens, flops=1.0, val_loss=1.9)
            record.write("end", status="done", wall_s=1.0, attempts=1)
    return folder


def test_a_table_says_of_each_run_its_trunk_and_where_it_left_it(ladder, tmp_path) -> None:
    table = collect([ladder.root])
    trunk = table["run"][2]
    assert table["trunk"].tolist() == [trunk] * 3
    assert table["branch_step"].tolist()[:2] == [20, 30]
    assert np.isnan(table["branch_step"][2])
    # An id of digits only stays the word that it is.
    file = tmp_path / "data.csv"
    write_table(table, file)
    assert read_table(file)["trunk"].tolist() == [trunk] * 3


def test_a_sweep_without_branches_has_no_such_columns(make_sweep) -> None:
    folder, _ = make_sweep(2, r0="done", r1="done")
    assert not {"trunk", "branch_step"} & set(collect([folder.root]).columns)


def test_a_branchs_curve_begins_with_its_trunks(ladder) -> None:
    table = curve_table(ladder)
    first = table["run"] == table["run"][0]
    assert table["step"][first].tolist() == [10, 20, 30, 40]
    assert table["lr"][first].tolist() == [1e-3, 1e-3, 1e-4, 1e-4]
    assert len(set(table["trunk"])) == 1


def four_on_each_trunk() -> tuple[RunTable, np.ndarray]:
    table = isoflop_table(budgets=np.geomspace(1e18, 1e20, 8), n_sizes=6, noise=0.003)
    return table, np.tile(np.arange(6), 8)


def test_runs_of_one_trunk_are_resampled_together_without_being_asked() -> None:
    table, trunk = four_on_each_trunk()
    named = with_columns(table, trunk=words(*(f"t{k}" for k in trunk)))
    runs = select(named, ("N", "D"))
    assert runs.cluster.tolist() == trunk.tolist()
    (note,) = [note for note in runs.remarks if "trunk" in note]
    assert "48 runs of 6 trunks" in note
    asked = fit(named, laws=[LAW], cluster="trunk")
    found = fit(named, laws=[LAW])
    assert found.intervals == asked.intervals
    assert found.remarks == (note,)
    assert not any("trunks" in sentence for sentence in found.warnings)


def test_a_named_column_goes_over_the_trunk() -> None:
    table, trunk = four_on_each_trunk()
    row = np.arange(48.0)
    named = with_columns(table, trunk=words(*map(str, trunk)), row=row)
    _, runs = prepare(LAW, named, cluster="row")
    assert len(set(runs.cluster.tolist())) == 48
    assert not [note for note in runs.remarks if "trunk" in note]


def test_runs_that_name_no_trunk_stand_for_themselves() -> None:
    table, trunk = four_on_each_trunk()
    cells = [f"t{k}" if i < 12 else "" for i, k in enumerate(trunk)]
    runs = select(with_columns(table, trunk=words(*cells)), ("N", "D"))
    assert len(set(runs.cluster.tolist())) == 6 + 36
    assert runs.cluster.tolist()[:6] == runs.cluster.tolist()[6:12]


def test_runs_of_which_each_is_its_own_trunk_are_as_without_the_column() -> None:
    table, _ = four_on_each_trunk()
    runs = select(with_columns(table, trunk=words(*(f"t{k}" for k in range(48)))), ("N", "D"))
    assert runs.cluster.tolist() == list(range(48))
    assert not (*runs.notes, *runs.remarks)


def test_what_was_done_with_trunks_is_a_note_and_kept_in_the_fit(tmp_path: Path, capsys) -> None:
    table, trunk = four_on_each_trunk()
    write_table(with_columns(table, trunk=words(*(f"t{k}" for k in trunk))), tmp_path / "runs.csv")
    out = tmp_path / "fit.json"
    assert run(["fit", str(tmp_path / "runs.csv"), "--law", LAW, "-o", str(out)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "6 trunks" in line]
    assert [line.split()[0] for line in said] == ["note:"]
    assert "6 trunks" in read_fit(out).remarks[0]
    older = json.loads(out.read_text())
    del older["remarks"]
    out.write_text(json.dumps(older))
    assert read_fit(out).remarks == ()


def test_rows_of_one_run_are_resampled_together_without_being_asked() -> None:
    table, number = four_on_each_trunk()
    named = with_columns(table, run=words(*(f"r{k}" for k in number)))
    runs = select(named, ("N", "D"))
    assert runs.cluster.tolist() == number.tolist()
    (note,) = runs.remarks
    assert "48 rows of 6 runs" in note
    assert fit(named, laws=[LAW]).intervals == fit(named, laws=[LAW], cluster="run").intervals
    single = with_columns(table, run=words(*(f"r{k}" for k in range(48))))
    assert not select(single, ("N", "D")).remarks


@pytest.mark.parametrize("names", [1, 2])
def test_a_copy_narrows_intervals_only_where_it_goes_for_a_run_of_its_own(names: int) -> None:
    table = isoflop_table(noise=0.003)
    n = len(table)
    twice = {k: np.concatenate([v, v[:5]]) for k, v in table.columns.items()}
    copies = [f"r{k}" if names == 1 else f"copy{k}" for k in range(5)]
    twice["run"] = words(*(f"r{k}" for k in range(n)), *copies)
    (doubt,) = [w for w in fit(RunTable(twice, {}), laws=[LAW]).warnings if "of another" in w]
    assert ("too narrow" in doubt) == (names == 2)
    assert ("5 rows" in doubt) == (names == 1)
