"""What `fit` prints of the noise, of exponents that hold near one budget, of approaches."""

from __future__ import annotations

from pathlib import Path

from fit_files import chinchilla

from scalekit.cli import run
from scalekit.commands._fit_text import fit_lines


def test_an_evaluation_error_above_the_scatter_of_the_runs_is_no_part_of_it(
    tmp_path: Path, capsys
) -> None:
    table = tmp_path / "data.csv"
    budgets = ["--budgets", "1e18,1e19,1e20", "--noise", "0.001"]
    assert run(["simulate", *budgets, "-o", str(table)]) == 0
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{header},loss_sem", *(f"{row},0.03" for row in rows)]) + "\n")
    assert run(["fit", str(table)]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("noise ")]
    assert "the evaluation's error, 1." in line
    assert "is taken as shared, by one validation set" in line
    assert "were it each run's own" not in line


def _written(path: Path, rows: list[str], header: str = "params,tokens,loss") -> list[str]:
    path.write_text("\n".join([header, *rows, ""]))
    return ["fit", str(path)]


def test_a_frontier_that_bends_says_where_its_exponents_hold(tmp_path: Path, capsys) -> None:
    def loss(n: float, u: float, e: float) -> float:
        penalty = 0.05 * (e - 1) ** 0.5 * (n / u) ** 0.5
        return 1.9 + 480 * n**-0.35 + 2000 * (u * e) ** -0.36 + penalty

    rows = [
        f"{n:.0f},{u * e:.0f},{u:.0f},{loss(n, u, e):.6f}"
        for n in (1e7, 1e8, 1e9)
        for u in (2e8, 2e9)
        for e in (1, 4, 30)
    ]
    table = _written(tmp_path / "a.csv", rows, "params,tokens,unique_tokens,loss")
    assert run([*table, "--law", "repeat_penalty", "--given", "U=1e9"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("frontier ")]
    assert "near" in line
    assert "no one power: that of N* runs from" in line


def test_exponents_that_no_run_sets_have_no_interval(tmp_path: Path, capsys) -> None:
    budgets = ["--budgets", "1e18,1e19,1e20", "--noise", "0.003"]
    assert run(["simulate", *budgets, "-o", str(tmp_path / "a.csv")]) == 0
    laws = ["--law", "chinchilla_tied", "--law", "chinchilla"]
    assert run(["fit", str(tmp_path / "a.csv"), *laws, "--approach", "parametric"]) == 0
    out = capsys.readouterr().out
    assert "N* ~ C^0.5000, D* ~ C^0.5000, set beforehand and not by the runs\n" in out
    assert "0.5000  set beforehand" in out
    fixed = ["--fix", "alpha=0.35,beta=0.37", "--law", "chinchilla"]
    assert run(["fit", str(tmp_path / "a.csv"), *fixed]) == 0
    assert "D* ~ C^0.4861, set beforehand and not by the runs\n" in capsys.readouterr().out
    assert "near" not in out


def test_an_approach_shows_the_interval_of_its_exponent_beside_it(tmp_path: Path, capsys) -> None:
    budgets = ["--budgets", "1e18,1e19,1e20,1e21", "--noise", "0.003"]
    assert run(["simulate", *budgets, "-o", str(tmp_path / "a.csv")]) == 0
    assert run(["fit", str(tmp_path / "a.csv"), "--approach", "isoflop"]) == 0
    out = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in out if line.startswith("  params_exponent")][:1]
    (ends,) = [line for line in out if line.startswith("frontier ")][:1]
    assert row[2:5] == ends.split("(")[1].split(")")[0].split()
    assert run(["fit", str(tmp_path / "a.csv"), "--approach", "isoflop", "--format", "csv"]) == 0
    (cells,) = [
        x.split(",") for x in capsys.readouterr().out.splitlines() if "isoflop,params_exp" in x
    ]
    assert [f"{float(cell):.4f}" for cell in cells[3:5]] == [row[2], row[4]]
    assert cells[5] == "ols-t"


def test_many_reasons_for_leaving_runs_out_are_counted_and_not_all_read_out() -> None:
    reasons = ["diverged", *(f"no optimum at {k}" for k in range(6)), "diverged"]
    dropped = tuple({"run": "r", "row": k, "reason": reason} for k, reason in enumerate(reasons))
    first = fit_lines(chinchilla(dropped=dropped))[0]
    assert "8 left out: 2 diverged, 1 no optimum at 0, 1 no optimum at 1, 4 for 4 other" in first
    assert first.endswith("reasons, each in fit.json)")
