"""Runs of different mixtures in one table: said aloud, unless the law takes the difference."""

from pathlib import Path

import numpy as np
import pytest
from fit_examples import isoflop_table

from scalekit import errors
from scalekit.cli import run
from scalekit.fit.run import fit
from scalekit.results.table import RunTable, read_table, write_table

WEIGHTS = ("web=0.75, code=0.25", "web=0.5, code=0.5")


def mixed(column: str = "data.weights", words: tuple[str, ...] = WEIGHTS) -> RunTable:
    """Every other run of another mixture, whose losses lie 2 % higher."""
    table = isoflop_table(noise=0.002, seed=3)
    odd = np.arange(len(table)) % 2
    cells = np.array([words[k % len(words)] for k in odd], dtype=object)
    return RunTable({**table.columns, column: cells, "loss": table["loss"] * (1 + 0.02 * odd)})


def said(result) -> list[str]:
    return [w for w in result.warnings if "takes the difference for noise" in w]


def test_runs_of_two_mixtures_are_told_with_what_settles_it() -> None:
    (told,) = said(fit(mixed()))
    assert "2 mixture weights in data.weights (web=0.75, code=0.25; web=0.5, code=0.5)" in told
    assert "--drop \"data.weights!='web=0.75, code=0.25'\"" in told


@pytest.mark.parametrize("column", ["data.source", "data.path", "data.tokenizer"])
def test_other_data_and_tokenizers_are_told_too(column: str) -> None:
    assert f"in {column} (a; b)" in said(fit(mixed(column, ("a", "b"))))[0]


def test_tuned_runs_beside_those_from_scratch_are_told() -> None:
    assert (
        "ways of tuning in start.method (none; lora)"
        in said(fit(mixed("start.method", ("", "lora"))))[0]
    )


def test_one_mixture_alone_says_nothing() -> None:
    assert not said(fit(mixed(words=WEIGHTS[:1])))
    # The rows in use count, not the table.
    assert not said(fit(mixed(), drop=[f"data.weights!='{WEIGHTS[0]}'"]))


def test_a_law_of_recipes_takes_the_difference() -> None:
    table = mixed()
    told = RunTable({**table.columns, "group": table["data.weights"]})
    assert not said(fit(told, laws=["multi_recipe"]))
    # Negative control: recipes that are something else.
    other = np.array(["a", "b", "b", "a"] * len(table), dtype=object)[: len(table)]
    assert said(fit(RunTable({**table.columns, "group": other}), laws=["multi_recipe"]))


def test_recipes_that_a_law_does_not_compare_are_told_and_names_of_single_runs_are_not() -> None:
    (told,) = said(fit(mixed("group", ("adamw", "muon"))))
    assert "2 recipes in group (adamw; muon)" in told
    assert told.endswith("or compare them as recipes with --law multi_recipe")
    table = mixed("group", ("adamw", "muon"))
    assert not said(fit(table, laws=["multi_recipe"]))
    single = np.array([f"g{k}" for k in range(len(table))], dtype=object)
    assert not said(fit(RunTable({**table.columns, "group": single})))


def test_the_commands_that_it_names_settle_it(tmp_path: Path, capsys) -> None:
    path = tmp_path / "data.csv"
    write_table(mixed(), path)
    assert set(read_table(path)["data.weights"]) == set(WEIGHTS)
    assert run(["fit", str(path), "--n-kind", "total"]) == errors.OK
    assert "warning: chinchilla: " in (first := capsys.readouterr().err)
    assert "takes the difference for noise" in first
    drop = f"data.weights!='{WEIGHTS[0]}'"
    assert run(["fit", str(path), "--n-kind", "total", "--drop", drop]) == errors.OK
    assert "for noise" not in capsys.readouterr().err
    argv = ["fit", str(path), "--law", "multi_recipe", "--map", "group=data.weights"]
    assert run([*argv, "--n-kind", "total"]) == errors.OK
    assert "for noise" not in capsys.readouterr().err
