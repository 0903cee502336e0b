"""The peers of benchmarks/fit.py, each timed by its own interpreter: no import of scalekit.

Run: PYTHON benchmarks/peers.py DATA.csv --draws 4000 --sample 32

PYTHON is an interpreter of an environment with `chinchilla` and `simple-scaling-laws`. Prints one
JSON object a line: tool, what, CPU seconds (children included), and theta where it was fitted.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import resource
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


def cpu_seconds() -> float:
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    return used


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = cpu_seconds()
    found = work()
    return cpu_seconds() - started, found


def say(tool: str, what: str, seconds: float, **more: Any) -> None:
    line = {"tool": f"{tool} {version(tool)}", "what": what, "seconds": seconds, **more}
    print(json.dumps(line), flush=True)


def chinchilla(rows: dict[str, np.ndarray], sample: int) -> None:
    """Time a sample of its grid of 5^5 starts, its loss set to Hoffmann et al.'s, and scale it."""
    package, metrics = map(import_module, ("chinchilla", "chinchilla._metrics"))
    values = {"e": (0.0, 1.0), "a": (2.0, 10.0), "b": (2.0, 10.0)}
    values |= {"alpha": (0.1, 0.9), "beta": (0.1, 0.9)}
    whole = 5 ** len(values)
    per_axis = max(2, round(sample ** (1 / len(values))))
    grid = {name: list(np.linspace(low, high, per_axis)) for name, (low, high) in values.items()}
    with tempfile.TemporaryDirectory() as folder:
        names = ("C", "N", "D", "loss")
        columns = zip(*(rows[n].tolist() for n in names), strict=True)
        lines = [",".join(map(repr, row)) for row in columns]
        Path(folder, "df.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
        one = package.Chinchilla(
            folder,
            param_grid=grid,
            seed_ranges={"C": (1e18, 1e22), "N_to_D": (5, 50)},
            loss_fn=functools.partial(metrics.log_huber, delta=1e-3),
            log_level=50,
        )
        seconds, _ = timed(lambda: one.fit(parallel=True))
        theta = {n: float(getattr(one, n)) for n in ("E", "A", "B", "alpha", "beta")}
    count = len(list(itertools.product(*grid.values())))
    what = f"single fit, {whole} starts ({count} timed)"
    say("chinchilla", what, seconds * whole / count, theta=theta, objective="hoffmann")


def simple_scaling_laws(rows: dict[str, np.ndarray], draws: int) -> None:
    """Time its least squares alone and with draws; it has no robust loss."""
    polars, package = map(import_module, ("polars", "simple_scaling_laws"))
    n = len(rows["loss"])
    frame = polars.DataFrame(
        {
            "training_run_id": [str(i) for i in range(n)],
            "model_size__params": rows["N"],
            "dataset_size__tokens": rows["D"],
            "test_loss__loss": rows["loss"],
        }
    )
    package.fit(frame, n_draws=2)  # the first call pays for imports
    seconds, model = timed(lambda: package.fit(frame, n_draws=2))
    theta = {k: float(v) for k, v in model.params("test_loss__loss").items()}
    say("simple-scaling-laws", "single fit", seconds, theta=theta, objective="mse")
    seconds, _ = timed(lambda: package.fit(frame, n_draws=draws))
    say("simple-scaling-laws", f"{draws} wild bootstrap refits", seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("table")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--sample", type=int, default=32)
    asked = parser.parse_args()
    found = np.genfromtxt(asked.table, delimiter=",", names=True)
    rows = {"N": found["params"], "D": found["tokens"], "loss": found["loss"]}
    rows["C"] = 6 * rows["N"] * rows["D"]
    for work, size in ((simple_scaling_laws, asked.draws), (chinchilla, asked.sample)):
        work(rows, size)


if __name__ == "__main__":
    main()
