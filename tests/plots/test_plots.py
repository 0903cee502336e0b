"""The contract of every figure: it draws, repeats byte for byte, tells its numbers, or refuses."""

from __future__ import annotations

import csv
import io
import re

import pytest
from study_examples import bare_study, full_study, small_study

from scalekit import registry
from scalekit.analysis.study import Study
from scalekit.plots import _write
from scalekit.plots.base import NEEDS

NAMES = registry.names("plots")
UNITS = ("tokens", "FLOPs", "parameter", "nats/token", "%", "embedding", "per step", "(1)")


@pytest.fixture(scope="module")
def study() -> Study:
    return full_study()


@pytest.fixture(scope="module")
def drawn(study: Study) -> dict[str, _write.Written]:
    out = {}
    for name in NAMES:
        made = _write.draw(name, study, ["svg", "png"])
        assert isinstance(made, _write.Written), f"{name}: {made}"
        out[name] = made
    return out


@pytest.mark.parametrize("name", NAMES)
def test_a_plot_offers_its_file_name_a_title_and_known_needs(name: str) -> None:
    plot = registry.find("plots", name)
    assert plot.name == name
    assert plot.title
    assert plot.shows
    assert set(plot.needs) <= set(NEEDS)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_equal_byte_for_byte_when_drawn_again(
    name: str, study: Study, drawn: dict[str, _write.Written]
) -> None:
    again = _write.draw(name, study, ["svg", "png"])
    assert isinstance(again, _write.Written)
    assert again.files["svg"] == drawn[name].files["svg"]
    assert again.files["png"] == drawn[name].files["png"]


@pytest.mark.parametrize("name", NAMES)
def test_a_users_matplotlib_settings_do_not_change_a_figure(
    name: str, study: Study, drawn: dict[str, _write.Written]
) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "red"}):
        again = _write.draw(name, study, ["svg"])
    assert isinstance(again, _write.Written)
    assert again.files["svg"] == drawn[name].files["svg"]


@pytest.mark.parametrize("name", NAMES)
def test_every_axis_says_its_unit_or_its_count(name: str, study: Study) -> None:
    from scalekit.plots._look import look

    with look(name):
        figure = registry.find("plots", name).draw(study).figure
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


@pytest.mark.parametrize("name", NAMES)
def test_the_csv_beside_a_figure_has_rows_and_full_precision(
    name: str, drawn: dict[str, _write.Written]
) -> None:
    rows = list(csv.DictReader(io.StringIO(drawn[name].table)))
    assert rows
    numbers = [cell for row in rows for cell in row.values() if re.fullmatch(r"-?[\d.e+-]+", cell)]
    assert any(len(cell) > 12 for cell in numbers)


@pytest.mark.parametrize("name", NAMES)
def test_a_plot_without_what_it_needs_says_why_in_a_sentence(name: str) -> None:
    made = _write.draw(name, Study(), ["svg"])
    assert isinstance(made, _write.Skipped)
    assert len(made.reason.split()) >= 4
    assert not made.reason.endswith(".")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [bare_study, small_study], ids=["no fit", "six runs"])
def test_a_poor_study_is_drawn_or_refused_but_never_fails(name: str, make) -> None:
    made = _write.draw(name, make(), ["svg"])
    assert isinstance(made, _write.Written | _write.Skipped)


def test_the_isoflop_csv_holds_every_run_at_its_measured_loss(
    study: Study, drawn: dict[str, _write.Written]
) -> None:
    rows = list(csv.DictReader(io.StringIO(drawn["isoflop"].table)))
    shown = {r["run"]: float(r["loss"]) for r in rows if r["what"] in ("fitted", "held_out")}
    losses = dict(zip(study.words("run"), study.column("loss"), strict=True))
    assert shown == {run: losses[run] for run in study.words("run")[study.is_used]}


def test_a_held_out_run_is_judged_by_the_fit_that_did_not_see_it(study: Study) -> None:
    import numpy as np

    from scalekit.plots.residuals import predictions

    predicted = predictions(study)
    held = study.roles == "held_out"
    assert study.fit is not None
    rows = {row["run"]: row["predicted"] for row in study.fit.holdout["rows"]}
    expected = [rows[run] for run in study.words("run")[held]]
    np.testing.assert_allclose(predicted[held], expected, rtol=1e-12)


def test_pdf_fonts_are_embedded_as_truetype(study: Study) -> None:
    made = _write.draw("isoflop", study, ["pdf"])
    assert isinstance(made, _write.Written)
    assert b"/Type3" not in made.files["pdf"]
    assert b"/CreationDate" not in made.files["pdf"]


def test_drawing_leaves_pyplot_alone(study: Study) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from scalekit import registry; [registry.find('plots', n) for n in "
        "registry.names('plots')]; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
