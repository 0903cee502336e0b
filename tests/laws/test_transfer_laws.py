"""Laws of fine-tuning and transfer: the published formulas, recovery, and a table of either."""

from pathlib import Path

import numpy as np
import pytest
from law_examples import TRUTHS, columns_of, table

from scalekit import errors, registry
from scalekit.cli import run
from scalekit.fit.run import fit, read_fit
from scalekit.results.table import RunTable, write_table

FINETUNE, TRANSFER = (registry.find("laws", name) for name in ("finetune", "transfer"))


def test_the_formulas_are_those_that_were_published() -> None:
    """Zhang et al. 2024, arXiv:2402.17193; Hernandez et al. 2021, arXiv:2102.01293, (1.1)."""
    N, F = np.array([1e9, 16e9]), np.array([1e6, 1e8])
    t = TRUTHS["finetune"]
    expected = t["A"] / N ** t["alpha"] / F ** t["beta"] + t["E"]
    assert FINETUNE.predict(t, {"N": N, "F": F}) == pytest.approx(expected, rel=1e-12)
    t = TRUTHS["transfer"]
    expected = t["k"] * F ** t["alpha"] * N ** t["beta"]
    assert TRANSFER.predict(t, {"N": N, "F": F}) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("law", [FINETUNE, TRANSFER], ids=lambda law: law.name)
def test_its_intervals_hold_the_truth_of_a_noisy_table(law) -> None:
    held = []
    for seed in range(12):
        found = fit(table(law.name, noise=0.01, seed=seed), laws=[law.name]).intervals
        held += [found[name].low <= v <= found[name].high for name, v in TRUTHS[law.name].items()]
    # Of 48 or 36 intervals at nominal 90 %.
    assert np.mean(held) > 0.75


def test_a_sum_of_powers_predicts_fine_tuning_worse_than_their_product() -> None:
    """The negative control: losses of the product, predicted at sizes that neither has seen."""
    told = table("finetune", noise=1e-4)
    swapped = RunTable({**told.columns, "tokens": told["finetune_tokens"]}, told.meta)
    rule = "params>1e9"
    product, total = (
        fit(swapped, laws=[name], hold_out=rule) for name in ("finetune", "chinchilla")
    )
    assert product.holdout["mape"] < 1e-3
    assert total.holdout["mape"] > 3 * product.holdout["mape"]


def test_a_table_of_transfer_is_fitted_from_the_command_line(tmp_path: Path, capsys) -> None:
    path, out = tmp_path / "transfer.csv", tmp_path / "fit.json"
    columns = columns_of(TRANSFER)
    inputs = {"F": columns["finetune_tokens"], "N": columns["params"]}
    columns["data_transferred"] = TRANSFER.predict(TRUTHS["transfer"], inputs)
    write_table(RunTable(columns, {"path": str(path)}), path)
    argv = ["fit", str(path), "--law", "transfer", "--n-kind", "non_embedding", "-o", str(out)]
    assert run(argv) == errors.OK
    assert "data_transferred = k F^alpha N^beta" in capsys.readouterr().out
    assert read_fit(out).theta == pytest.approx(TRUTHS["transfer"], rel=1e-6)
