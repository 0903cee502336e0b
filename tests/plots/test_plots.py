"""The contract of every figure: it draws, repeats byte for byte, tells its numbers, or refuses."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from study_examples import bare_study, full_study, small_study, study_for

from scalekit import registry
from scalekit.analysis.study import Study
from scalekit.plots import _write
from scalekit.plots._look import look
from scalekit.plots.base import NEEDS, CannotDrawError, refusal
from scalekit.results.table import RunTable

NAMES = registry.names("plots")


@pytest.fixture(scope="module")
def study() -> Study:
    return full_study()


@dataclass(frozen=True)
class Drawn:
    """A plot's own example: the figure itself, its files, CSV and caption."""

    figure: Figure
    files: Mapping[str, bytes]
    table: str
    caption: str


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Every plot in turn; of module scope, so that one plot's tests stand together."""
    return request.param


@pytest.fixture(scope="module")
def drawn(name: str) -> Drawn:
    """A plot's own example, drawn once for all its tests."""
    return draw_whole(name)


def draw_whole(name: str) -> Drawn:
    study = study_for(name)
    plot = registry.find("plots", name)
    assert refusal(plot, study) is None
    with look(f"scalekit-{name}"):
        made = plot.draw(study)
        files = _write.files_of(made.figure, _write.FORMATS)
    return Drawn(made.figure, files, _write.rows_csv(made.shown), made.caption)


def rows_of(made: Drawn) -> list[dict[str, str]]:
    """The CSV beside a figure."""
    return list(csv.DictReader(io.StringIO(made.table)))


UNITS = ("tokens", "FLOPs", "parameter", "nats/token", "%", "embedding", "per step", "(1)")
UNITS += ("exponent", "amplitude", "(s)", "(min)", "(h)", "share")


def test_a_plot_offers_its_file_name_a_title_and_known_needs(name: str) -> None:
    plot = registry.find("plots", name)
    assert plot.name == name
    assert plot.title
    assert plot.shows
    assert set(plot.needs) <= set(NEEDS)


def test_a_figure_is_equal_byte_for_byte_when_drawn_again_under_a_users_own_settings(
    name: str, drawn: Drawn
) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "red"}):
        again = _write.draw(name, study_for(name), list(_write.FORMATS))
    assert isinstance(again, _write.Written)
    assert again.files == drawn.files
    assert again.table == drawn.table


def test_every_axis_says_its_unit_or_its_count(name: str, drawn: Drawn) -> None:
    figure = drawn.figure
    labels = [
        label
        for axes in figure.axes
        if axes.axison
        for axis, label in ((axes.xaxis, axes.get_xlabel()), (axes.yaxis, axes.get_ylabel()))
        if axis.get_visible() and any(t.get_text() for t in axis.get_ticklabels())
    ]
    for label in labels:
        assert "(" in label or label == "", label
        assert label == "" or any(unit in label for unit in UNITS) or "clipping" in label, label
    parameters = [x for x in labels if x.startswith(("Parameters", "N ("))]
    assert all("non-embedding + head" in x for x in parameters)


def test_the_csv_beside_a_figure_has_rows_and_full_precision(name: str, drawn: Drawn) -> None:
    rows = rows_of(drawn)
    assert rows
    numbers = [cell for row in rows for cell in row.values() if re.fullmatch(r"-?[\d.e+-]+", cell)]
    assert any(len(cell) > 12 for cell in numbers)


def test_a_plot_without_what_it_needs_says_why_in_a_sentence(name: str) -> None:
    made = _write.draw(name, Study(), ["svg"])
    assert isinstance(made, _write.Skipped)
    assert len(made.reason.split()) >= 4
    assert not made.reason.endswith(".")


@pytest.mark.parametrize("make", [bare_study, small_study], ids=["no fit", "six runs"])
def test_a_poor_study_is_drawn_or_refused_but_never_fails(name: str, make) -> None:
    made = _write.draw(name, make(), ["svg"])
    assert isinstance(made, _write.Written | _write.Skipped)


def test_the_isoflop_csv_holds_every_run_at_its_measured_loss(study: Study) -> None:
    rows = rows_of(draw_whole("isoflop"))
    shown = {r["run"]: float(r["loss"]) for r in rows if r["what"] in ("fitted", "held_out")}
    losses = dict(zip(study.words("run"), study.column("loss"), strict=True))
    assert shown == {run: losses[run] for run in study.words("run")[study.is_used]}


def test_a_held_out_run_is_judged_by_the_fit_that_did_not_see_it(study: Study) -> None:
    import numpy as np

    from scalekit.plots._surface import predictions

    assert study.fit is not None
    predicted = predictions(study, study.fit)
    held = study.roles == "held_out"
    rows = {row["run"]: row["predicted"] for row in study.fit.holdout["rows"]}
    expected = [rows[run] for run in study.words("run")[held]]
    np.testing.assert_allclose(predicted[held], expected, rtol=1e-12)


def test_a_pdf_has_truetype_fonts_and_no_dates(name: str, drawn: Drawn) -> None:
    data = drawn.files["pdf"]
    assert b"/Type3" not in data
    assert b"/TrueType" in data or b"/CIDFontType2" in data
    assert b"/CreationDate" not in data


def test_a_caption_holds_a_number_and_ends_as_a_sentence(name: str, drawn: Drawn) -> None:
    caption = drawn.caption
    assert re.search(r"\d", caption), caption
    assert caption.endswith(".")
    assert caption[0].isupper()


def shown_by(name: str, study: Study) -> tuple[Figure, list[dict[str, str]]]:
    with look(name):
        made = registry.find("plots", name).draw(study)
    return made.figure, list(csv.DictReader(io.StringIO(_write.rows_csv(made.shown))))


def test_the_legend_says_that_held_out_runs_are_in_the_fit_too(study: Study) -> None:
    figure, _ = shown_by("isoflop", study)
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"in the fit (26)", "also held out once (7)"} <= set(told)


def test_budgets_of_dropped_runs_alone_have_no_line_in_the_design(study: Study) -> None:
    assert study.table is not None
    assert study.fit is not None
    lowest = study.budgets[0]
    dropped = tuple(
        {"run": run, "row": k, "reason": "another experiment"}
        for k, run in enumerate(study.runs)
        if study.column("budget")[k] == lowest
    )
    few = replace(study, fit=replace(study.fit, dropped=dropped), plan=())
    figure, _ = shown_by("design", few)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sum("10^" in text for text in texts) == len(study.budgets) - 1
    # Negative control: with its runs in use the budget has its line.
    figure, _ = shown_by("design", replace(study, plan=()))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sum("10^" in text for text in texts) == len(study.budgets)


def test_a_cell_of_near_equal_losses_fills_its_panel() -> None:
    study = study_for("hparam")
    assert study.table is not None
    best = np.array([study.column("loss")[study.column("params") == n].min() for n in (1e8, 1e9)])
    kept = study.column("loss") <= 1.003 * best.min()
    figure, _ = shown_by("hparam", Study(study.table.where(kept), name="near"))
    low, high = figure.subfigs[0].axes[0].get_ylim()
    assert high / low < 1.006


def test_an_exponent_that_the_law_ties_is_no_matter_of_choices(study: Study) -> None:
    assert study.fit is not None
    tied = {k: {"value": 0.5, "low": 0.5, "high": 0.5} for k in ("params", "tokens")}
    with pytest.raises(CannotDrawError, match=r"0\.5 whatever the runs say"):
        shown_by("sensitivity", replace(study, fit=replace(study.fit, exponents=tied)))


def test_residuals_of_a_law_of_repeated_tokens_read_its_own_inputs() -> None:
    law = registry.find("laws", "repeat_penalty")
    theta = {"E": 1.9, "A": 500.0, "B": 2000.0, "P": 0.05, "alpha": 0.34, "beta": 0.37}
    theta |= {"delta": 0.4, "kappa": 0.8}
    study = small_study()
    assert study.table is not None
    assert study.fit is not None
    inputs = {"N": study.column("params"), "D": study.column("tokens")}
    inputs["U"] = inputs["D"] / np.linspace(1, 6, len(study.table))
    columns = dict(study.table.columns) | {"unique_tokens": inputs["U"]}
    columns["loss"] = law.predict(theta, inputs)
    table = RunTable(columns, study.table.meta)
    fit = replace(study.fit, law="repeat_penalty", theta=theta)
    _, rows = shown_by("residuals", replace(study, table=table, fit=fit))
    assert len(rows) == len(table)
    assert max(abs(float(row["residual_percent"])) for row in rows) < 1e-9
    # Sizes and fine-tuning data alone: no compute, no tokens, and still residuals over each.
    tuned = registry.find("laws", "finetune")
    few = {"E": 1.1, "A": 60.0, "alpha": 0.12, "beta": 0.08}
    known = {"params": inputs["N"], "finetune_tokens": inputs["D"] / 100}
    known["loss"] = tuned.predict(few, {"N": inputs["N"], "F": known["finetune_tokens"]})
    told = replace(study.fit, law="finetune", theta=few, cost=None, data={})
    alone = Study(RunTable(known, {"path": "few.csv"}), told)
    figure, rows = shown_by("residuals", alone)
    labels = [axes.get_xlabel() for axes in figure.axes if axes.axison]
    assert labels[1:3] == ["N (count not stated)", "F (finetune_tokens)"]
    assert len(labels) == 4
    with pytest.raises(CannotDrawError, match="no run in use tells its compute"):
        shown_by("power_laws", alone)
    # Without that column the law predicts no row, and the figure is refused.
    plot = registry.find("plots", "residuals")
    assert refusal(plot, replace(study, fit=fit)) == NEEDS["predictions"][1]


def test_residuals_of_a_law_of_recipes_know_the_recipe_of_each_run() -> None:
    study = small_study()
    assert study.table is not None
    assert study.fit is not None
    words = np.array(["adamw", "muon"], dtype=object)[np.arange(len(study.table)) % 2]
    law = registry.find("laws", "multi_recipe").at_levels(("adamw", "muon"))
    theta = {"E": 1.9, "A": 500.0, "B": 2000.0, "alpha": 0.34, "beta": 0.37}
    theta |= {"rho_N[muon]": 1.5, "rho_D[muon]": 0.8}
    inputs = {"N": study.column("params"), "D": study.column("tokens")}
    inputs["r"] = np.where(words == "adamw", 1.0, 2.0)
    columns = {**study.table.columns, "group": words, "loss": law.predict(theta, inputs)}
    known = {**study.fit.diagnostics, "levels": ["adamw", "muon"]}
    fit = replace(study.fit, law="multi_recipe", theta=theta, diagnostics=known, holdout={})
    made = replace(study, table=RunTable(columns, study.table.meta), fit=fit)
    figure, rows = shown_by("residuals", made)
    assert len(rows) == len(made.runs)
    assert max(abs(float(row["residual_percent"])) for row in rows) < 1e-9
    assert not any("group" in axes.get_xlabel() for axes in figure.axes)


def test_fitted_curves_show_every_line_and_hold_a_run_to_the_fit_without_it() -> None:
    _, rows = shown_by("curve_fit", study_for("curve_fit"))
    assert {row["run"] for row in rows} == {"constant", "cosine", "fall"}
    assert {row["run"] for row in rows if row["what"] == "held_out"} == {"fall"}
    for row in rows:
        miss = 100 * (float(row["loss"]) / float(row["predicted"]) - 1)
        assert float(row["residual_percent"]) == pytest.approx(miss, rel=1e-9)
    last = [row for row in rows if row["run"] == "fall"][-1]
    # The check's C is smaller, so it promises less of the fall than the fit does.
    assert float(last["predicted"]) > float(last["loss"])


def test_drawing_leaves_pyplot_alone(study: Study) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from scalekit import registry; [registry.find('plots', n) for n in "
        "registry.names('plots')]; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
