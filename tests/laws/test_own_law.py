"""A user's own law as a file: fitted when it is right, refused with its place when it is not."""

from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from scalekit import errors, laws
from scalekit.cli import run
from scalekit.fit.run import read_fit
from scalekit.results.table import RunTable, write_table


def example() -> str:
    """The file that the docstring of the family shows."""
    assert laws.__doc__ is not None
    first = laws.__doc__.index("    import numpy")
    last = laws.__doc__.index("A sum of powers needs no class")
    return dedent(laws.__doc__[first:last])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    flops = np.geomspace(1e17, 1e22, 30)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(30))
    loss = (1.2 + 900 * np.log(flops) ** -1.6) * noise
    write_table(RunTable({"flops": flops, "loss": loss}), tmp_path / "runs.csv")
    return tmp_path / "runs.csv"


def test_the_law_that_the_docstring_shows_is_fitted_read_back_and_predicts(
    data: Path, tmp_path: Path, capsys
) -> None:
    law, out = tmp_path / "mine.py", tmp_path / "fit.json"
    law.write_text(example())
    argv = ["fit", str(data), "--law", str(law), "--hold-out", "flops>5e21", "-o", str(out)]
    assert run(argv) == errors.OK
    shown = capsys.readouterr().out
    assert "L = E + A (ln C)^-alpha" in shown
    assert "CONVERGED" in shown
    result = read_fit(out)
    assert result.law == str(law)
    for name, truth in {"E": 1.2, "A": 900.0, "alpha": 1.6}.items():
        ends = result.intervals[name]
        # One draw of the noise: three times the half-width of the interval holds the truth.
        middle, reach = result.theta[name], max(ends.high - ends.low, 1e-9)
        assert abs(middle - truth) < 1.5 * reach
    assert result.holdout["mape"] < 0.01
    law.unlink()
    assert run(["predict", str(out), "--flops", "1e22"]) == errors.REFUSED
    assert "mine.py: no such file" in capsys.readouterr().err


WRONG = {
    "no LAW": (("LAW = ", "LAWS = "), "mine.py: binds no LAW"),
    "raises at import": (("import numpy as np", "import nunpy as np"), "ModuleNotFoundError"),
    "leaves at import": (("import numpy as np", "raise SystemExit(0)"), "SystemExit while reading"),
    "is no Python": (("class LogPower(Law):", "class LogPower(Law)"), "SyntaxError"),
    "LAW is no law": (("LAW = LogPower(", "LAW = dict("), "LAW is a dict, not a law"),
    "a name twice": (('Param("A"', 'Param("E"'), "the law names 'E' twice"),
    "a wrong sign": (("[floor, power, -np.log", "[floor, power, np.log"), "with 'alpha', central"),
    "a forgotten factor": (("[floor, power, -np", "[floor, 1.0 + 0 * power, -np"), "with 'A', "),
    "a wrong shape": (("power], axis=1) / total[:, None]", "power])"), "jacobian(...) has shape"),
    "raises when it predicts": (
        ('frame.logs["C"]', 'frame.logs["N"]'),
        "KeyError while predicting",
    ),
    "never finite": (("power = np.exp(phi[:, [1]])", "power = np.nan"), "predicts no finite loss"),
    "no way back": (
        ('np.log(theta["A"]), theta["alpha"]', 'theta["A"], theta["alpha"]'),
        "to_internal does not undo to_published, 'A' misses",
    ),
    "an unknown column": (('inputs=("C",)', 'inputs=("C", "width")'), "no column 'width'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_law_that_is_wrong_is_refused_before_it_is_fitted(
    data: Path, tmp_path: Path, capsys, name: str
) -> None:
    (old, new), says = WRONG[name]
    text = example()
    assert old in text
    law, out = tmp_path / "mine.py", tmp_path / "fit.json"
    law.write_text(text.replace(old, new, 1))
    assert run(["fit", str(data), "--law", str(law), "-o", str(out)]) == errors.REFUSED
    taken = capsys.readouterr()
    assert says in taken.err
    assert str(tmp_path) in taken.err
    assert "Traceback" not in taken.err
    assert taken.out == ""
    assert not out.exists()


def test_every_command_refuses_a_file_that_offers_no_law(data: Path, tmp_path, capsys) -> None:
    law = tmp_path / "mine.py"
    law.write_text("LAW = 'chinchilla'\n")
    for argv in (
        ["fit", str(data), "--law", str(law)],
        ["analyze", str(data), "--law", str(law)],
        ["simulate", "--law", str(law), "--budgets", "1e18"],
    ):
        assert run(argv) == errors.REFUSED
        assert "LAW is a str, not a law" in capsys.readouterr().err
