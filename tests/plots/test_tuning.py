"""The best rate and batch: planted optima come back, edges are called edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_examples import tuned_study

from scalekit.analysis.study import Study
from scalekit.analysis.tuning import cells, minimum, power_of, spread_over
from scalekit.fit.run import fit as fit_table
from scalekit.plots import hparam
from scalekit.plots._look import look
from scalekit.results.table import read_table

REFDATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "refdata"


def test_the_bottom_of_a_parabola_in_the_logarithm_is_found_between_the_runs() -> None:
    x = np.geomspace(1e-4, 1e-2, 9)
    found = minimum(x, 2.0 + 0.1 * np.log(x / 1.3e-3) ** 2)
    assert found.place == pytest.approx(1.3e-3, rel=1e-9)
    assert found.loss == pytest.approx(2.0, rel=1e-12)
    assert np.polyval(found.curve, np.log(2e-3)) == pytest.approx(
        2.0 + 0.1 * np.log(2 / 1.3) ** 2, rel=1e-9
    )


@pytest.mark.parametrize(("best", "edge"), [(1e-5, "low"), (1.0, "high")])
def test_a_bottom_beyond_what_was_tried_is_an_edge_at_the_last_value(best, edge) -> None:
    x = np.geomspace(1e-4, 1e-2, 9)
    found = minimum(x, 2.0 + 0.1 * np.log(x / best) ** 2)
    assert found.edge == edge
    assert found.place == (x[0] if edge == "low" else x[-1])
    assert found.curve == ()


def test_planted_powers_of_rate_and_batch_come_back() -> None:
    found = cells(tuned_study())
    assert len(found) == 6
    assert not any(cell.edge for cell in found)
    lr, N, D = (np.array([getattr(c, k) for c in found]) for k in ("lr", "params", "tokens"))
    batch = np.array([cell.batch.place for cell in found if cell.batch is not None])
    # Each line's own bottom is exact; between batches the rate is interpolated, not fitted.
    power = power_of(lr, N=N, D=D)
    assert power is not None
    assert (power["N"], power["D"]) == pytest.approx((-0.7, 0.3), abs=1e-6)
    power = power_of(batch, D=D)
    assert power is not None
    assert power["D"] == pytest.approx(0.55, abs=1e-6)


def test_a_diverged_rate_does_not_move_the_bottom() -> None:
    x = np.geomspace(1e-4, 1e-2, 9)
    loss = 2.0 + 0.1 * np.log(x / 1.3e-3) ** 2
    wild = loss.copy()
    wild[-1] = 11.0
    assert minimum(x, wild).place == pytest.approx(minimum(x, loss).place, rel=1e-9)


def test_powers_that_the_places_do_not_tell_apart_are_not_given() -> None:
    N = np.array([1e8, 3e8, 1e9, 3e9])
    assert power_of(N**-0.5, N=N, D=20 * N) is None
    assert power_of(N[:2] ** -0.5, N=N[:2]) is None


def test_cells_for_the_figure_are_spread_over_compute() -> None:
    found = cells(tuned_study())
    chosen = spread_over(found, 3)
    compute = [cell.params * cell.tokens for cell in chosen]
    assert compute == sorted(compute)
    assert compute[0] == min(c.params * c.tokens for c in found)
    assert compute[-1] == max(c.params * c.tokens for c in found)


def test_the_caption_warns_of_an_edge_and_names_the_size() -> None:
    study = tuned_study()
    assert study.table is not None
    cut = study.table.where(
        (study.column("params") > 2e8) | (study.column("lr") < 2.2e4 * 1e8**-0.7 * 2e9**0.3)
    )
    with look("test"):
        shown = hparam.PLOT.draw(Study(cut))
    assert "Warning, best at the edge" in shown.caption
    assert "N = 100M" in shown.caption
    assert "lr high" in shown.caption


def test_the_figure_of_a_fit_tells_the_fits_own_exponents() -> None:
    study = tuned_study(noise=3e-4)
    assert study.table is not None
    fit = fit_table(study.table, laws=("lr_power", "batch_power"))
    with look("test"):
        shown = hparam.PLOT.draw(replace(study, fit=fit))
        alone = hparam.PLOT.draw(study)
    names = (("N", "exponent_N"), ("D", "exponent_D"))
    told = " ".join(f"{symbol}^{fit.theta[name]:.2f}" for symbol, name in names)
    assert f"By the fit the best rate goes as {told}." in shown.caption
    assert "By the fit" not in alone.caption
    titles = [axes.get_title(loc="right") for axes in shown.figure.axes]
    assert any(f"{fit.theta['exponent_N']:.2f}" in title for title in titles if "lr*" in title)


@pytest.mark.data
@pytest.mark.skipif(not REFDATA.is_dir(), reason="the reference data is not here")
def test_step_laws_optima_follow_the_powers_that_its_released_script_gives() -> None:
    mapping = {"loss": "smooth_loss", "batch_tokens": "batch_size_seqs*2048"}
    table = read_table(REFDATA / "steplaw_dense_lr_bs.csv", mapping)
    found = cells(Study(table))
    assert len(found) == 17
    inner = [cell for cell in found if not cell.edge]
    lr, N, D = (np.array([getattr(c, k) for c in inner]) for k in ("lr", "params", "tokens"))
    batch = np.array([cell.batch.place for cell in inner if cell.batch is not None])
    # Their rule takes every run within 0.25 % of a cell's best and gives, on the released data,
    # lr ~ N^-0.766 D^0.197 and batch ~ N^-0.266 D^0.623; another estimator of the same optima may
    # lie a few of its standard errors (0.02 to 0.03) away, the arg-min's N^-0.82 D^0.29 does.
    power = power_of(lr, N=N, D=D)
    assert power is not None
    assert (power["N"], power["D"]) == pytest.approx((-0.766, 0.197), abs=0.07)
    power = power_of(batch, N=N, D=D)
    assert power is not None
    assert (power["N"], power["D"]) == pytest.approx((-0.266, 0.623), abs=0.08)
