"""What `fit` prints of the noise."""

from __future__ import annotations

from pathlib import Path

from scalekit.cli import run


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
    assert "of which" not in line
    assert "less than the evaluation's error of 1." in line
    assert "which runs on one validation set share" in line
