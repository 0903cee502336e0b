"""scalekit predict as a user meets it: printed to the letter, refused with reasons, exact in JSON.

The fits are written down, so that what is printed depends on no solver.
"""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fit_files import FACTOR, REPEATS, THETA, chinchilla, repeats, written

from scalekit import errors
from scalekit.cli import run
from scalekit.fit.result import FitStatus

BASIS = """\
params total, FLOPs 6N_total, loss nats/token; extrapolation is over the largest fitted FLOPs
90 % intervals by sandwich-t; one run: the prediction interval of a single run
"""
SERVED_BASIS = """\
params total, FLOPs 6N_total, loss nats/token
90 % intervals by sandwich-t
"""
PRINTED = {
    "a size at a budget": (
        ["--params", "7B", "--flops", "1e21"],
        """\
run
  FLOPs  params  tokens  tokens/param    loss              90 %         one run  wasted\
              90 %  extrapolation
   1e21      7B  23.81B          3.40  2.3361  2.3288 to 2.3434  2.325 to 2.347  25.4 %\
  23.3 % to 27.7 %            10x
  7B params are 2.45x the optimal 2.85B at this budget: 25.4 % of it (23.3 % to 27.7 %) buy nothing
7B params on 23.8B tokens: outside the fitted runs, params 2.06x the largest
""",
    ),
    "optima": (
        ["--flops", "1e19,1e22"],
        """\
optimum
  FLOPs  params              90 %  tokens              90 %  tokens/param            90 %    loss\
              90 %         one run  extrapolation
   1e19  266.0M  261.9M to 270.3M  6.265B  6.167B to 6.364B         23.55  22.82 to 24.30  2.9227\
  2.9192 to 2.9262  2.912 to 2.933           0.1x
   1e22   9.34B    8.79B to 9.92B    179B      168B to 190B          19.1    17.0 to 21.6   2.152\
    2.141 to 2.163  2.139 to 2.165           100x
  of a budget, half the size wastes 15.99 % (15.62 % to 16.36 %) of it, double 16.14 % (15.79 % to \
16.48 %)
9.34B params on 179B tokens: outside the fitted runs, params 2.75x the largest, tokens 2.29x the \
largest
""",
    ),
    "what losses cost": (
        ["--loss", "2.3,1.87"],
        """\
cheapest to reach a loss
  loss     FLOPs                  90 %  params            90 %  tokens            90 %\
  tokens/param          90 %  extrapolation
   2.3  1.135e21  1.048e21 to 1.236e21   3.04B  2.88B to 3.22B   62.1B  58.2B to 66.3B\
          20.4  18.7 to 22.3          11.3x
  1.87   3.90e28       4.09e26 or more   23.2T    433B or more    280T   5.85T or more\
          12.1   8.6 to 17.0         3.9e8x
23.2T params on 280T tokens: outside the fitted runs, params 6,820x the largest, tokens 3,600x \
the largest
loss 1.87: lies inside the interval of the irreducible loss; it may be out of reach of any compute
""",
    ),
    "a model to be served": (
        ["--params", "13B", "--inference-tokens", "2T"],
        """\
to serve 2T tokens at loss 2.119 (2.106 to 2.131)
             params            90 %  tokens          90 %  tokens/param  training FLOPs\
  inference FLOPs  together
  reference     13B                    244B                        18.8         1.90e22\
          5.20e22   7.10e22
  best        6.10B  5.89B to 6.32B    699B  655B to 746B           115         2.56e22\
          2.44e22   5.00e22
  saves 29.6 % (27.2 % to 31.9 %) of the reference's FLOPs; its training alone is 256x the \
largest fitted
  reference: on the tokens for which the law makes its size optimal
6.1B params on 699B tokens: outside the fitted runs, params 1.79x the largest, tokens 8.96x the \
largest
""",
    ),
}


@pytest.fixture
def fit(tmp_path: Path) -> Path:
    return written(tmp_path, chinchilla())


@pytest.fixture
def ask(fit: Path, capsys):
    def predict(*options: str, where: Path = fit) -> dict:
        assert run(["predict", str(where), *options, "--format", "json"]) == errors.OK
        return json.loads(capsys.readouterr().out)

    return predict


@pytest.mark.parametrize("name", PRINTED)
def test_the_answer_is_printed_to_the_letter(fit: Path, capsys, name: str) -> None:
    options, text = PRINTED[name]
    assert run(["predict", str(fit), *options]) == errors.OK
    basis = BASIS if "extrapolation\n" in text else SERVED_BASIS
    assert capsys.readouterr().out == text + basis


def test_a_law_without_covariance_prints_no_intervals_and_counts_epochs(
    tmp_path: Path, capsys
) -> None:
    path = written(tmp_path, repeats())
    assert run(["predict", str(path), "--flops", "1e22", "--unique-tokens", "25B"]) == errors.OK
    assert (
        capsys.readouterr().out
        == """\
optimum
  FLOPs  params  tokens  tokens/param  epochs     loss  extrapolation
   1e22  7.026B  237.2B          33.8    9.49  2.22208           100x
  of a budget, half the size wastes 28.0 % of it, double 27.5 %
7.03B params on 237B tokens: outside the fitted runs, params 2.07x the largest, tokens 3.04x the \
largest
params total, FLOPs 6N_total, loss nats/token; extrapolation is over the largest fitted FLOPs
no intervals: the fit holds no covariance
"""
    )


@pytest.mark.parametrize("digits", [4, 17])
def test_a_written_fit_predicts_as_the_numbers_in_it(tmp_path: Path, ask, digits: int) -> None:
    """CH-1a's trap: theta rounded on its way to the file would move the optimum."""
    theta = {k: float(f"{v * (1 + 1e-7):.{digits}g}") for k, v in THETA.items()}
    path = written(tmp_path, chinchilla(theta=theta), "own.json")
    entry = ask("--flops", "5.88e23", where=path)["predictions"][0]
    a, b = theta["alpha"], theta["beta"]
    size = (a * theta["A"] / (b * theta["B"])) ** (1 / (a + b)) * (5.88e23 / 6) ** (b / (a + b))
    assert entry["params"] == pytest.approx(size, rel=1e-9)
    assert entry["tokens_per_param"] == pytest.approx(5.88e23 / 6 / size**2, rel=1e-9)
    assert json.loads(path.read_text())["theta"] == theta


def test_two_of_budget_size_and_tokens_give_the_third(ask) -> None:
    by_size = ask("--flops", "1e21", "--params", "7B")["predictions"][0]
    by_tokens = ask("--flops", "1e21", "--tokens", repr(by_size["tokens"]))["predictions"][0]
    by_both = ask("--params", "7B", "--tokens", repr(by_size["tokens"]))["predictions"][0]
    for other in (by_tokens, by_both):
        for word in ("flops", "params", "tokens", "loss", "waste"):
            assert other[word] == pytest.approx(by_size[word], rel=1e-9)


def test_lists_are_walked_together_and_one_goes_with_all(ask) -> None:
    found = ask("--flops", "1e21", "--params", "1B,3B,7B")["predictions"]
    assert [e["params"] for e in found] == [1e9, 3e9, 7e9]
    assert all(e["flops"] == pytest.approx(1e21) for e in found)
    found = ask("--params", "1B,3B", "--tokens", "2e10,6e10")["predictions"]
    assert [e["tokens"] for e in found] == [2e10, 6e10]


def test_a_price_and_an_optimum_answer_each_other(ask) -> None:
    loss = ask("--flops", "1e22")["predictions"][0]["loss"]
    found = ask("--loss", repr(loss))
    assert found["question"] == "price"
    assert found["predictions"][0]["flops"] == pytest.approx(1e22, rel=1e-9)


def test_csv_holds_every_number_of_json(fit: Path, ask, capsys) -> None:
    entry = ask("--params", "7B", "--flops", "1e21")["predictions"][0]
    argv = ["predict", str(fit), "--params", "7B", "--flops", "1e21", "--format", "csv"]
    assert run(argv) == errors.OK
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert float(row["loss"]) == entry["loss"]
    assert float(row["waste_low"]) == entry["intervals"]["waste"]["low"]
    assert float(row["outside_params"]) == entry["outside"]["params"]
    assert float(row["extrapolation"]) == entry["extrapolation"]


def test_every_extrapolated_number_says_how_far_it_is(ask, fit: Path, capsys) -> None:
    inside, far = ask("--flops", "1e19,1e23")["predictions"]
    assert inside["outside"] == {}
    assert far["outside"] == pytest.approx(
        {"flops": 1e3, "params": far["params"] / 3.4e9, "tokens": far["tokens"] / 7.8e10}
    )
    run(["predict", str(fit), "--flops", "1e19,1e23"])
    taken = capsys.readouterr()
    assert "1e23 FLOPs is 1,000x the largest fitted compute" in taken.err
    assert "1e19" not in taken.err
    # Cheap, but with tokens per parameter that no run had.
    assert run(["predict", str(fit), "--params", "30M", "--tokens", "6e10"]) == errors.OK
    assert "tokens/param 4.87x the largest" in capsys.readouterr().out


def test_what_is_asked_twice_is_answered_twice_and_doubted_once(fit: Path, capsys) -> None:
    assert run(["predict", str(fit), "--flops", "1e23,1e23"]) == errors.OK
    taken = capsys.readouterr()
    assert taken.out.count("1e23") == 2
    assert taken.out.count("outside the fitted runs") == 1
    assert taken.err.count("1e23 FLOPs is 1,000x the largest fitted compute") == 1


def test_another_law_of_the_file_is_asked_by_name(tmp_path: Path, ask, capsys) -> None:
    theta = {**THETA, "k": 1.1}
    other = chinchilla(law="coupled", theta=theta, covariance=None)
    path = written(tmp_path, chinchilla(others=(other,)), "both.json")
    assert ask("--flops", "1e21", where=path)["law"] == "chinchilla"
    assert ask("--flops", "1e21", "--law", "coupled", where=path)["law"] == "coupled"
    assert run(["predict", str(path), "--flops", "1e21", "--law", "couple"]) == errors.USAGE
    assert "did you mean 'coupled'?" in capsys.readouterr().err


def test_laws_with_a_say_span_a_band_of_their_own(tmp_path: Path, ask, capsys) -> None:
    shares = {"params": {"value": 0.51}, "tokens": {"value": 0.49}}
    other = chinchilla(
        law="chinchilla_tied",
        theta={"E": 1.9, "A": 600.0, "B": 1900.0, "alpha": 0.36},
        covariance=None,
        exponents=shares,
    )
    path = written(tmp_path, chinchilla(exponents=shares, others=(other,)), "both.json")
    both = [
        ask("--flops", "1e22", "--law", name, where=path)["predictions"][0]
        for name in ("chinchilla", "chinchilla_tied")
    ]
    form = both[0]["form"]
    assert form["laws"] == ["chinchilla", "chinchilla_tied"]
    for word in ("params", "tokens", "loss"):
        told = [entry[word] for entry in both]
        # The intervals are the law's own and know nothing of the band.
        assert form[word] == pytest.approx([min(told), max(told)], rel=1e-12)
    sizes = ("--params", "7B", "--tokens", "140B")
    runs = [ask(*sizes, "--law", n, where=path)["predictions"][0] for n in form["laws"]]
    told = [entry["loss"] for entry in runs]
    assert runs[0]["form"]["loss"] == pytest.approx([min(told), max(told)], rel=1e-12)
    assert run(["predict", str(path), *sizes]) == errors.OK
    low, high = (f"{loss:.4g}" for loss in (min(told), max(told)))
    assert f"loss {low} to {high} over chinchilla, chinchilla_tied" in capsys.readouterr().out
    # A law that is not trusted has no say, and one alone spans nothing.
    doubtful = replace(other, status=FitStatus.MULTIMODAL)
    alone = written(tmp_path, chinchilla(exponents=shares, others=(doubtful,)), "one.json")
    assert "form" not in ask("--flops", "1e22", where=alone)["predictions"][0]


def test_refits_give_the_intervals_when_asked(tmp_path: Path, ask) -> None:
    values = np.array(list(THETA.values()))
    noise = np.random.default_rng(0).standard_normal((2000, 5))
    draws = values * np.exp(noise @ np.array(FACTOR).T)
    path = written(tmp_path, chinchilla(draws=tuple(map(tuple, draws.tolist()))), "drawn.json")
    entry = ask("--flops", "1e21", "--intervals", "bootstrap", where=path)["predictions"][0]
    plain = ask("--flops", "1e21", where=path)["predictions"][0]
    for word in ("params", "loss"):
        ends, known = entry["intervals"][word], plain["intervals"][word]
        assert ends["method"] == "bootstrap-bc"
        width = (ends["high"] - ends["low"]) / (known["high"] - known["low"])
        # t with 25 degrees of freedom against normal draws, whose 2000 know a width to 2 %.
        assert width == pytest.approx(1.645 / 1.708, abs=0.06)


def test_a_doubtful_fit_is_asked_under_a_warning(tmp_path: Path, capsys) -> None:
    fit = chinchilla(status=FitStatus.BOUND_HIT, message="E is on its bound")
    path = written(tmp_path, fit)
    assert run(["predict", str(path), "--flops", "1e19"]) == errors.OK
    assert "warning: chinchilla: BOUND_HIT, E is on its bound" in capsys.readouterr().err


def test_an_optimum_at_the_end_of_the_search_is_said_and_not_built_upon(
    tmp_path: Path, capsys
) -> None:
    fit = chinchilla(theta={**THETA, "B": 1e-12}, covariance=None)
    path = written(tmp_path, fit)
    assert run(["predict", str(path), "--flops", "1e19"]) == errors.OK
    assert "no optimum inside what was searched" in capsys.readouterr().out
    assert run(["predict", str(path), "--flops", "1e19", "--yaml"]) == errors.USAGE
    assert "has no optimum at 1e19 FLOPs" in capsys.readouterr().err


def test_a_law_of_compute_predicts_the_loss_of_a_budget(tmp_path: Path, ask, capsys) -> None:
    theta = {"E": 1.7, "A": 100.0, "alpha": 0.1}
    fit = chinchilla(law="power", theta=theta, covariance=None, intervals={})
    path = written(tmp_path, fit, "power.json")
    found = ask("--flops", "1e20", where=path)["predictions"][0]
    assert found["loss"] == pytest.approx(1.7 + 100 * 1e20**-0.1, rel=1e-12)
    assert found["extrapolation"] == pytest.approx(1.0)
    assert run(["predict", str(path), "--params", "1B", "--tokens", "1B"]) == errors.USAGE
    assert "--params: power is a law of C; leave it out" in capsys.readouterr().err


BAD = {
    "nothing": ([], "nothing is asked; give --flops C"),
    "half a run": (["--params", "7B"], "says half of a run; add --tokens or --flops"),
    "all three": (
        ["--params", "7B", "--tokens", "1T", "--flops", "1e22"],
        "two of --flops, --params and --tokens give the third",
    ),
    "a price of a size": (["--loss", "2", "--params", "7B"], "leave out --params"),
    "lists that differ": (
        ["--params", "1B,2B", "--tokens", "1B,2B,3B"],
        "2 to --params and 3 to --tokens",
    ),
    "an empty list": (["--flops", ","], "no number"),
    "below the floor": (["--loss", "1.8"], "its irreducible loss is 1.8516 (1.8205 to 1.8804)"),
    "above everything": (["--loss", "1e5"], "ask for less"),
    "negative": (["--flops", "-1e21"], "not positive"),
    "two references": (
        ["--params", "1B,2B", "--inference-tokens", "1T"],
        "compares with one reference",
    ),
    "an odd reference": (
        ["--params", "1B", "--flops", "1e21", "--inference-tokens", "1T"],
        "the reference is one of --params N",
    ),
    "served nothing": (["--params", "1B", "--inference-tokens", "0"], "not positive"),
    "no repetition": (
        ["--flops", "1e21", "--unique-tokens", "1e9"],
        "chinchilla takes every token as new; fit repeat_exp",
    ),
    "not an input": (["--flops", "1e21", "--given", "U=1e9"], "is a law of N, D; leave it out"),
    "no refits": (["--flops", "1e21", "--intervals", "bootstrap"], "the fit holds 0 refits"),
    "no such way": (["--flops", "1e21", "--intervals", "boot"], "did you mean 'bootstrap'?"),
    "a template for nothing": (["--flops", "1e21", "--template", "x.yaml"], "add --yaml"),
    "a sweep around a run": (
        ["--params", "1B", "--tokens", "1B", "--yaml"],
        "lays a sweep around an optimum",
    ),
    "a sweep as a table": (
        ["--flops", "1e21", "--yaml", "--format", "json"],
        "is a format itself",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_with_the_reason(fit: Path, capsys, name: str) -> None:
    options, says = BAD[name]
    assert run(["predict", str(fit), *options]) == errors.USAGE
    taken = capsys.readouterr()
    assert says in taken.err
    assert taken.out == ""


NOT_WHOLE = {
    "no parameter": ({"theta": {**THETA, "E": None}}, "has no number for E; fit"),
    "one left out": ({"theta": {"E": 1.8}}, "covariance is of 5 parameters, there are 1"),
    "below zero": ({"theta": {**THETA, "A": -1.0}}, "theta.A is -1, below zero; fit"),
    "beyond all": ({"theta": {**THETA, "A": 10**400}}, "0000 is no finite number; "),
    "not a number": ({"theta": {**THETA, "A": math.nan}}, "NaN is no finite number; "),
    "rows too few": ({"covariance": [[1.0] * 5]}, "covariance is of 1 parameters, there are 5"),
    "words for rows": ({"covariance": "none"}, "covariance is 'none', not a list"),
    "one end": (
        {"diagnostics": {"inputs": {"N": [1.0]}}},
        "diagnostics.inputs.N has 1 items, not 2",
    ),
    "no cost": ({"cost": {"factor": 0, "power": 1}}, "cost.worst_miss is missing"),
    "free cost": (
        {"cost": {"factor": 0, "power": 1, "worst_miss": 0}},
        "cost.factor is 0, not a positive number",
    ),
    "a word": ({"theta": {**THETA, "A": "big"}}, "not a whole fit, theta.A is 'big'"),
    "a list": ({"intervals": []}, "not a whole fit"),
    "a number": ({"diagnostics": 1}, "not a whole fit, diagnostics is 1, not names and values"),
}


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_a_fit_that_was_changed_by_hand_is_refused_in_words(
    fit: Path, tmp_path: Path, capsys, name: str
) -> None:
    changes, says = NOT_WHOLE[name]
    path = tmp_path / "changed.json"
    path.write_text(json.dumps({**json.loads(fit.read_text()), **changes}))
    for command in (["predict"], ["forecast", "-o", str(tmp_path / "forecast.json")]):
        code = run([command[0], str(path), "--flops", "1e21", *command[1:]])
        assert code in (errors.REFUSED, errors.NOT_IDENTIFIED)
        assert says in capsys.readouterr().err
    assert not (tmp_path / "forecast.json").exists()


def test_a_law_of_repeated_data_asks_for_its_unique_tokens(tmp_path: Path, capsys) -> None:
    path = written(tmp_path, repeats())
    assert run(["predict", str(path), "--flops", "1e22"]) == errors.USAGE
    assert "needs U (unique_tokens) as well; add --unique-tokens" in capsys.readouterr().err
    both = ["--unique-tokens", "1e9", "--given", "U=1e9"]
    assert run(["predict", str(path), "--flops", "1e22", *both]) == errors.USAGE
    assert "--given U says it too" in capsys.readouterr().err


def test_what_is_held_on_the_command_line_wins_over_what_was_held_in_the_fit(
    tmp_path: Path, ask
) -> None:
    plain = repeats()
    path = written(tmp_path, repeats(diagnostics={**plain.diagnostics, "given": {"U": 1e12}}))
    free = ask("--flops", "1e22", where=path)["predictions"][0]
    tight = ask("--flops", "1e22", "--given", "U=1e9", where=path)["predictions"][0]
    assert free["epochs"] < 1 < tight["epochs"]
    assert tight["loss"] > free["loss"]
    assert REPEATS["E"] < free["loss"]
