"""Every law by its name in every command: a result, or a refusal that says what it cannot do."""

import json
from pathlib import Path

import pytest
from law_examples import NAMES, TRUTHS, example, table

from scalekit import errors, registry
from scalekit.cli import run
from scalekit.fit.optimum import can_allocate
from scalekit.fit.run import read_fit
from scalekit.results.table import write_table

LAWS = {name: registry.find("laws", name) for name in NAMES}
OF_OTHER_THINGS = [name for name, law in LAWS.items() if not law.is_of_final_loss]
NOT_OF_THE_PLANE = [
    name for name, law in LAWS.items() if not (law.is_of_final_loss and {"N", "D"} <= {*law.inputs})
]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Write the table and the fit of a law, once."""
    folder = tmp_path_factory.mktemp("laws")

    def write(name: str) -> tuple[Path, Path]:
        data, out = folder / f"{name}.csv", folder / f"{name}.json"
        if not out.exists():
            write_table(table(name, noise=0.002), data)
            assert run(["fit", str(data), "--law", name, "-o", str(out)]) == errors.OK
        return data, out

    return write


@pytest.mark.parametrize("name", NAMES)
def test_every_law_is_fitted_by_its_name(name: str, fitted, capsys) -> None:
    _, out = fitted(name)
    shown = capsys.readouterr().out
    result = read_fit(out)
    law, _ = example(name)
    assert result.law == name
    assert list(result.theta) == list(law.names)
    if shown:  # the first to ask for the fit sees it printed
        assert LAWS[name].formula in shown
    json.loads(out.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_law_is_asked_for_what_it_knows_and_refuses_the_rest(
    name: str, fitted, capsys
) -> None:
    _, out = fitted(name)
    law = LAWS[name]
    capsys.readouterr()
    code = run(["predict", str(out), "--params", "1e9", "--tokens", "1e11"])
    taken = capsys.readouterr()
    if {"N", "D"} <= {*law.inputs} <= {"N", "D", "r"}:
        assert code == errors.OK
        assert (law.response if law.response != "loss" else "prediction interval") in taken.out
    elif set(law.inputs) != {"C"} or law.response != "loss":
        assert code == errors.USAGE
        assert name in taken.err
        assert taken.out == ""
    code = run(["predict", str(out), "--flops", "1e22"])
    taken = capsys.readouterr()
    if can_allocate(law, law.given):
        assert code == errors.OK
        assert "optimum" in taken.out
    elif set(law.inputs) != {"C"}:
        assert code == errors.USAGE
        assert name in taken.err


@pytest.mark.parametrize("name", OF_OTHER_THINGS)
def test_a_report_on_final_losses_refuses_laws_of_other_things(name: str, fitted, capsys) -> None:
    data, _ = fitted(name)
    folder = data.with_name(f"{name}-report")
    assert run(["analyze", str(data), "--law", name, "-o", str(folder)]) == errors.USAGE
    says = capsys.readouterr().err
    assert f"--law {name}: predicts {LAWS[name].response} from" in says
    assert f"scalekit fit --law {name}" in says
    assert not folder.exists()


@pytest.mark.parametrize("name", NOT_OF_THE_PLANE)
def test_figures_of_the_plane_are_refused_for_laws_that_have_none(
    name: str, fitted, capsys, tmp_path: Path
) -> None:
    _, out = fitted(name)
    argv = ["plot", str(out), "contours", "frontier", "-o", str(tmp_path / "figures"), "-t", "svg"]
    assert run(argv) == errors.REFUSED
    says = capsys.readouterr().err
    assert "skipped contours: " in says
    assert "skipped frontier: " in says
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_simulated_where_the_plane_is_enough_and_refused_elsewhere(
    name: str, capsys
) -> None:
    law = LAWS[name]
    truth = dict(zip(law.names, TRUTHS[name].values(), strict=False))
    theta = ",".join(f"{key}={value}" for key, value in truth.items())
    argv = ["simulate", "--law", name, "--theta", theta, "--budgets", "1e19", "--sizes", "1M,9M"]
    code = run(argv)
    taken = capsys.readouterr()
    if law.is_of_final_loss and {*law.inputs} <= {"N", "D", "C"}:
        assert code == errors.OK
        assert taken.out.splitlines()[0].startswith("run,source,status")
    else:
        assert code == errors.USAGE
        assert f"--law {name}: predicts {law.response} from" in taken.err
        assert taken.out == ""
