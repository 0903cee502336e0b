"""`scalekit simulate`: a table of runs from a known law, for tests, demonstrations and planning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalekit import errors
from scalekit.commands.fit import read_pairs, read_positive

if TYPE_CHECKING:
    from scalekit.laws.base import Law
    from scalekit.results.table import RunTable

Many = list[str] | None


def simulate(
    *,
    law: Annotated[str, typer.Option(help="a law, or a file with one")] = "chinchilla",
    theta: Annotated[Many, typer.Option(help="its parameters: E=1.7,A=400,...")] = None,
    budgets: Annotated[str, typer.Option(help="FLOPs of each isoFLOP valley: 1e18,1e19")] = "",
    sizes: Annotated[
        str | None,
        typer.Option(help="params of every budget: 1M,3M; or how many, around each optimum: 7"),
    ] = None,
    width: Annotated[float, typer.Option(help="largest size over the optimum")] = 4.0,
    off_centre: Annotated[float, typer.Option(help="centre of the sizes over the optimum")] = 1.0,
    noise: Annotated[float, typer.Option(min=0, help="standard deviation of log loss")] = 0.005,
    seed: Annotated[int, typer.Option(min=0, help="of the noise")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="data.csv")] = None,
) -> None:
    """Make a table of runs from a known law."""
    from scalekit.fit.own_law import find_law
    from scalekit.fit.simulate import complete_theta
    from scalekit.results.table import table_text, write_table

    chosen = find_law(law)
    values = complete_theta(chosen, read_pairs("--theta", theta, "E=1.7"))
    flops = [read_positive("--budgets", word) for word in budgets.split(",") if word.strip()]
    if not flops:
        raise errors.UsageError("--budgets: none given; write --budgets 1e18,3e18,1e19")
    table = make(chosen, values, flops, sizes, (width, off_centre), noise=noise, seed=seed)
    if output is None:
        sys.stdout.write(table_text(table))
    else:
        write_table(table, output)
        print(output)


def make(
    law: Law,
    theta: dict[str, float],
    flops: list[float],
    sizes: str | None,
    grid: tuple[float, float],
    *,
    noise: float,
    seed: int,
) -> RunTable:
    """Lay the runs out and simulate them."""
    import numpy as np

    from scalekit.fit.simulate import isoflop_inputs
    from scalekit.fit.simulate import simulate as simulate_runs

    if not law.is_of_final_loss or not set(law.inputs) <= {"N", "D", "C"}:
        columns = ", ".join(law.columns)
        raise errors.UsageError(
            f"--law {law.name}: predicts {law.response} from {columns}, and runs are laid out over "
            "params and tokens alone; choose a law of the loss in those"
        )
    words = [w for w in (sizes or "7").split(",") if w.strip()]
    if not grid[0] > 1 or not grid[1] > 0:
        raise errors.UsageError("--width: more than 1, and --off-centre more than 0")
    if len(words) == 1 and words[0].strip().isdigit():
        n_sizes = int(words[0])
        if n_sizes < 1:
            raise errors.UsageError("--sizes 0: at least one size a budget")
        inputs, budget = isoflop_inputs(
            law, theta, flops, n_sizes=n_sizes, width=grid[0], off_centre=grid[1]
        )
    else:
        params = np.array([read_positive("--sizes", word) for word in words])
        budget = np.repeat(flops, len(params))
        params = np.tile(params, len(flops))
        inputs = {"N": params, "D": budget / (6.0 * params)}
    if set(law.inputs) == {"C"}:
        inputs = {"C": np.asarray(flops, dtype=float)}
        budget = inputs["C"]
    return simulate_runs(law, theta, inputs, noise=noise, seed=seed, budget=budget)


COMMAND = simulate
