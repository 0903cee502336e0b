"""What `fit.json` holds of a fit beside its numbers: gates, design, noise, influence, doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from scalekit.fit import noise
from scalekit.fit.bootstrap import Draws
from scalekit.fit.identify import count_distinct, exponent_sd
from scalekit.fit.influence import STRONG
from scalekit.fit.influence import summary as influence_summary
from scalekit.fit.judge import Solution
from scalekit.fit.objective import OBJECTIVES
from scalekit.fit.optimum import SUSPICIOUS_MISS, Fitted, allocate, can_allocate, exponents
from scalekit.fit.result import FitStatus
from scalekit.fit.rows import Runs
from scalekit.fit.solve import refit_under
from scalekit.fit.uncertainty import Spread, is_narrow, uneven_sizes
from scalekit.quantities import count_words, write_flops

NARROW_RATIO = 3.0
"""Tokens per parameter that span less than this leave the two terms hard to tell apart."""

SUSPICIOUS_CONDITION = 3e4
FEW_TO_SPARE = 3
"""Fewer runs than this beyond the parameters say next to nothing against a law."""

FEW_LINES = 12.0
"""Curves worth fewer independent lines leave intervals that rest on next to nothing."""

UNEVEN = 2.0
"""Noise that changes by more from the quietest run to the loudest is said."""

_STRETCHES = 48
"""Stretches of the fitted budgets over which a frontier without a closed form is followed."""
_ONE_POWER = 1e-3
"""Exponents that run over less than this are one power, as those of a recipe's optimum are."""

BESIDE = ("robust", "hoffmann", "mse_log", "mse")
"""Objectives whose exponent is put beside the asked one's."""


def diagnostics(
    solution: Solution, fitted: Fitted, spread: Spread, draws: Draws | None, flops: float
) -> dict[str, Any]:
    """Gather what is known of a fit.

    Args:
        solution: The fit.
        fitted: Its law with numbers.
        spread: Its covariance.
        draws: Refits of resampled runs, if any.
        flops: The budget at which the influence of runs on N* is measured.
    """
    inputs = solution.runs.inputs
    parts = noise.measure(solution)
    found: dict[str, Any] = {
        "design": _design(solution, fitted),
        "condition": solution.condition,
        "bounds_hit": list(solution.bounds_hit),
        "starts_agreeing": solution.agreeing,
        "scaled_gradient": solution.scaled_gradient,
        "rivals": [
            dict(zip(solution.law.names, row.tolist(), strict=True))
            for row in solution.law.to_published(
                np.reshape(solution.rivals, (-1, len(solution.phi))), solution.frame.centre
            )
        ],
        "dof": fitted.dof,
        "covariance": spread.method,
        "noise": parts.total,
        "noise_parts": parts.to_json(),
        "rmse_log": float(np.sqrt(np.mean(solution.residual**2))),
        "aicc": _aicc(solution),
        "centre": {s: float(np.exp(v)) for s, v in solution.frame.centre.items()},
        "inputs": {s: [float(v.min()), float(v.max())] for s, v in inputs.items()},
        "given": dict(fitted.given or {}),
        "levels": list(solution.law.levels),
    }
    if {"N", "D"} <= set(inputs):
        ratio = inputs["D"] / inputs["N"]
        found["tokens_per_param"] = {"low": float(ratio.min()), "high": float(ratio.max())}
    if spread.serial is not None:
        found["lasting_errors"] = spread.serial.to_json()
    if draws is not None:
        found["draws_lost"] = draws.lost
    local = local_exponents(solution, fitted)
    if local is not None:
        found["local_exponents"] = local
    if decides(solution, fitted):
        found["objectives"] = objectives_beside(solution, fitted)
        found["influence"] = influence_summary(solution, fitted, flops)
    return found


def decides(solution: Solution, fitted: Fitted) -> bool:
    """Whether the fit gives an optimum whose doubts are worth the work."""
    closed = solution.law.allocation(solution.theta) is not None
    identified = solution.status is not FitStatus.UNIDENTIFIED
    return closed and identified and can_allocate(solution.law, fitted.given)


def local_exponents(solution: Solution, fitted: Fitted) -> dict[str, Any] | None:
    """Say at which budget the exponents of an optimum without a closed form were taken.

    Returns:
        That budget, and the smallest and largest exponent of N* between neighbouring budgets of
        the fitted range; None where they hold everywhere.
    """
    closed = solution.law.allocation(solution.theta) is not None
    identified = solution.status is not FitStatus.UNIDENTIFIED
    if closed or not identified or not can_allocate(solution.law, fitted.given):
        return None
    log_c = np.log(solution.runs.inputs["C"])
    budgets = np.linspace(log_c.min(), log_c.max(), _STRETCHES + 1)
    log_n = allocate(fitted, fitted.theta, np.exp(budgets))[0]
    slopes = np.diff(log_n) / np.diff(budgets)
    if np.ptp(slopes) < _ONE_POWER:
        return None
    return {
        "flops": float(np.exp(log_c.mean())),
        "params": [float(slopes.min()), float(slopes.max())],
    }


def objectives_beside(solution: Solution, fitted: Fitted) -> dict[str, dict[str, Any]]:
    """Refit under other objectives from the optimum, and say where the exponent of N* goes.

    Published exponents differ by more than their errors for this reason alone.
    """
    middle = float(np.exp(np.mean(np.log(solution.runs.inputs["C"]))))
    found = {}
    for name in BESIDE:
        if name == solution.problem.objective.name:
            continue
        objective, psi, value = refit_under(solution, OBJECTIVES[name])
        row = solution.law.to_published(solution.problem.phi(psi[None])[0], solution.frame.centre)
        share = float(exponents(fitted, fitted.at(row), middle)[0])
        found[name] = {"exponent_params": share, **objective.to_json(value)}
    return found


def _design(solution: Solution, fitted: Fitted) -> dict[str, Any]:
    """Return what the inputs alone tell, and what exponent they would leave at half a per cent."""
    found = {**asdict(solution.design), "is_identified": solution.design.is_identified}
    inputs = {s: solution.runs.inputs[s] for s in solution.law.inputs}
    if solution.design.is_identified and not solution.bounds_hit:
        power = fitted.cost.power
        found["exponent_sd"] = exponent_sd(solution.law, solution.theta, inputs, power=power)
    if decides(solution, fitted):
        N, D, C = (solution.runs.inputs[s] for s in ("N", "D", "C"))
        best = allocate(fitted, fitted.theta, C)
        over = np.log(D / N) - (best[1] - best[0])
        found["ratio_over_optimum"] = [float(np.exp(over.min())), float(np.exp(over.max()))]
    return found


def _aicc(solution: Solution) -> float | None:
    """Return AICc of normal errors in log loss; shown beside the hold-out, never instead of it."""
    n, k = len(solution.runs), len(solution.psi) + 1
    square = float(solution.residual @ solution.residual)
    if n <= k + 1 or square <= 0:
        return None
    return float(n * np.log(square / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def warnings(
    solution: Solution, fitted: Fitted, draws: Draws | None, known: dict[str, Any]
) -> Sequence[str]:
    """Say in sentences what a user should doubt; `known` is what `diagnostics` gathered."""
    runs = solution.runs
    found = list(runs.notes)
    if fitted.cost.worst_miss > SUSPICIOUS_MISS:
        found.append(
            f"FLOPs follow from params and tokens only within {fitted.cost.worst_miss:.0%}; the "
            "compute-optimal numbers rest on that relation"
        )
    if solution.status is not FitStatus.UNIDENTIFIED:
        found += _design_warnings(solution, known["design"])
    spare = len(runs) - len(solution.psi)
    if spare < FEW_TO_SPARE:
        found.append(
            f"{len(runs)} runs for {len(solution.psi)} free parameters leave {spare} to judge the "
            "law by; add runs or use a smaller law"
        )
    found += _copy_warnings(runs)
    found += _interval_warnings(solution, known)
    if draws is not None and draws.lost:
        lost = count_words(draws.lost, "bootstrap refit")
        found.append(f"{lost} did not converge; left out")
    first = known.get("influence", {}).get("runs", [])[:1]
    if first and abs(first[0]["shift_in_errors"]) > STRONG:
        names, far = ", ".join(first[0]["runs"][:3]), known["influence"]["flops"]
        found.append(
            f"the result rests on {names}: without it the exponent of N* moves by "
            f"{first[0]['shift_in_errors']:+.1f} standard errors, and N* at {write_flops(far)} "
            f"FLOPs is {first[0]['params_ratio']:.3g} times as large"
        )
    return found


def _copy_warnings(runs: Runs) -> list[str]:
    """Doubt rows that stand twice, under another run's name or under their own."""
    points = np.stack([*runs.inputs.values(), runs.loss])
    n_points, n_apart = count_distinct(points), count_distinct(np.stack([*points, runs.cluster]))
    found = []
    if n_apart > n_points:
        found.append(
            f"{count_words(n_apart - n_points, 'run')} with the inputs and loss of another, each "
            "taken for a run of its own: if one run stands twice, leave the copy out, intervals "
            "are too narrow by it"
        )
    if len(runs) > n_apart:
        # Resampled together they narrow no interval of a parameter.
        found.append(
            f"{count_words(len(runs) - n_apart, 'row')} with the inputs and loss of another of the "
            "same run or trunk: each counts as often as it stands there; leave copies out"
        )
    return found


def _interval_warnings(solution: Solution, known: Mapping[str, Any]) -> list[str]:
    """Say where intervals rest on less than they seem to, as coverage measured it."""
    lasting, found = known.get("lasting_errors"), []
    sequence = solution.law.sequence(solution.runs.inputs)
    if lasting is not None and sequence is not None and lasting["effective"] < FEW_LINES:
        curves = len(np.unique(sequence[0]))
        found.append(
            f"errors last about {lasting['lasts']:.3g} lines, so the {len(solution.runs)} lines of "
            f"{count_words(curves, 'curve')} are worth {lasting['effective']:.2g} independent "
            "ones: intervals rest on that few; add curves, not lines"
        )
    groups = int(solution.runs.cluster.max()) + 1
    if lasting is None and groups <= len(solution.psi):
        found.append(
            f"{count_words(groups, 'cluster')} for {len(solution.psi)} free parameters: errors "
            "between so few cannot be seen in every direction, and intervals may be far too "
            "narrow; cluster by something finer, or add clusters"
        )
    if is_narrow(solution):
        sizes = uneven_sizes(solution)
        uneven = float(sizes.max() / sizes.min())
        if uneven > UNEVEN:
            found.append(
                f"the noise of some runs is about {uneven:.2g} times that of others, and intervals "
                "under so small a delta then hold the truth less often than they say; compare "
                "--objective robust"
            )
    return found


def _design_warnings(solution: Solution, design: Mapping[str, Any]) -> list[str]:
    found = []
    reach = design.get("ratio_over_optimum")
    if reach is not None and (reach[0] > 1 or reach[1] < 1):
        side, other = ("more", "fewer") if reach[0] > 1 else ("fewer", "more")
        found.append(
            f"every run has {side} tokens per parameter than the fitted optimum at its compute "
            f"({reach[0]:.2g} to {reach[1]:.2g} times as many): the optimum is extrapolated; add "
            f"runs with {other}"
        )
    if solution.condition > SUSPICIOUS_CONDITION:
        found.append(
            f"condition {solution.condition:.1e} of the normal matrix: parameters trade "
            "against each other, trust their combinations more than each"
        )
    ratio = solution.design.tokens_per_param
    if ratio is not None and ratio[1] < NARROW_RATIO * ratio[0]:
        found.append(
            f"tokens per parameter span only {ratio[0]:.3g} to {ratio[1]:.3g}; add "
            "runs far from that ratio"
        )
    return found
