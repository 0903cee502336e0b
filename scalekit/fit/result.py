"""A fitted law as a value, and its way to and from `fit.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from scalekit.fit.shape import NUMBER, POSITIVE, TEXT

SCHEMA = "scalekit.fit/1"

# What is not finite is written as null.
_MAYBE = (NUMBER, None)
_ROWS = ([[_MAYBE]], None)
SHAPE = {
    "law": TEXT,
    "approach": TEXT,
    "theta": {...: _MAYBE},
    "objective": {},
    "status": TEXT,
    "message": TEXT,
    "n_runs": NUMBER,
    "dropped": [{}],
    "data": {},
    "intervals": {...: {"low": _MAYBE, "high": _MAYBE, "level": NUMBER, "method": TEXT}},
    "exponents": {...: {...: _MAYBE}},
    "optimum": [{"flops": NUMBER}],
    "holdout": {},
    "diagnostics": {
        "dof?": _MAYBE,
        "noise?": _MAYBE,
        "given?": ({...: NUMBER}, None),
        "levels?": ([TEXT], None),
        "inputs?": {...: [_MAYBE, _MAYBE]},
        "tokens_per_param?": ({"low": _MAYBE, "high": _MAYBE}, None),
    },
    "covariance?": _ROWS,
    "draws?": _ROWS,
    "influence?": _ROWS,
    "cost?": ({"factor": POSITIVE, "power": NUMBER, "worst_miss": _MAYBE}, None),
    "remarks?": [TEXT],
    "warnings": [TEXT],
    "others": [{}],
}
"""What every reader of a fit relies on; who wrote it by hand may have left it out."""


class FitStatus(StrEnum):
    """How a fit ended."""

    CONVERGED = "CONVERGED"
    BOUND_HIT = "BOUND_HIT"
    MULTIMODAL = "MULTIMODAL"
    NOT_CONVERGED = "NOT_CONVERGED"
    UNIDENTIFIED = "UNIDENTIFIED"


@dataclass(frozen=True)
class Interval:
    """An interval with its level (0.9 is ninety per cent) and the method that made it."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class CostLaw:
    """FLOPs of a run from its size: `flops = factor * N**power * tokens`.

    `factor` 6 and `power` 1 where FLOPs are counted as 6N; otherwise fitted to the table's own
    runs, with the largest relative miss beside it. It closes the compute-optimal problem when
    attention or the head make FLOPs per token other than proportional to N.
    """

    factor: float
    power: float
    worst_miss: float


@dataclass(frozen=True)
class FitResult:
    """One fit: what `fit.json` holds.

    Attributes:
        law: The law's name; for approaches 1 and 2 the frontier's power law is `theta` and law is
            the approach's name.
        approach: parametric, isoflop or envelope.
        theta: Parameters by published name (E, A, B, alpha, beta, ...).
        objective: name, delta, value (the sum, at the optimum).
        status: How it ended; `message` says it in a sentence.
        dropped: One entry a row left out: run, row, reason.
        data: path, sha256, columns, params_kind, flops_kind, loss_unit.
        intervals: By name of parameter, and of `exponents` as `exponent_params`, ...
        exponents: `params` and `tokens`: value, low, high of N* ~ C^a and D* ~ C^b.
        optimum: One entry an asked budget: flops, params, tokens, loss, tokens_per_param,
            extrapolation (over the largest measured budget) and intervals by those names; `errors`
            splits what one run there may miss by (parameters and scatter, as standard deviations of
            log loss), `outside` has what lies beyond the fitted runs, as a ratio to the nearer end,
            and `form` has how far the laws with a say spread; of a law, `at_search_end` says that
            no optimum was found inside what was searched.
        holdout: rule, n_runs, mape, bias, worst, theta of the fit without the held-out runs, rows
            of the held-out runs (run, row, loss, predicted, low, high).
        diagnostics: condition, tokens_per_param {low, high}, bounds_hit, starts_agreeing,
            scaled_gradient; design (what the inputs alone tell), noise_parts, objectives (the
            exponent under others), influence (which runs move N* most), roll_out; of approach 2
            valleys, drift and bias.
        covariance: Of theta in published units, rows in theta's order, or None.
        draws: Bootstrap draws of theta, (n_draws, n_params), in theta's order, or None.
        influence: Beside draws: what each run, or cluster of runs, adds to theta to first order,
            (n_clusters, n_params). An interval's acceleration (BCa) comes from it.
        cost: How FLOPs follow from N and D in this table.
        remarks: What was done with the runs and leaves nothing to doubt, a sentence each.
        warnings: Doubts, a sentence each.
        others: Fits of the same table by other laws or approaches.
    """

    law: str
    approach: str
    theta: Mapping[str, float]
    objective: Mapping[str, Any]
    status: FitStatus
    message: str
    n_runs: int
    dropped: tuple[Mapping[str, Any], ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    exponents: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    optimum: tuple[Mapping[str, Any], ...] = ()
    holdout: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    covariance: tuple[tuple[float, ...], ...] | None = None
    draws: tuple[tuple[float, ...], ...] | None = None
    influence: tuple[tuple[float, ...], ...] | None = None
    cost: CostLaw | None = None
    starts: int = 0
    seed: int = 0
    version: str = ""
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    others: tuple[FitResult, ...] = ()

    @property
    def is_trusted(self) -> bool:
        """Whether the fit passed its gate."""
        return self.status is FitStatus.CONVERGED

    def to_json(self) -> dict[str, Any]:
        """Return what `fit.json` holds, with full precision."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FitResult:
        """Read `fit.json` back; the schema is checked by the caller, who knows the path."""
        fields = {k: v for k, v in value.items() if k in cls.__dataclass_fields__}
        fields["status"] = FitStatus(fields["status"])
        fields["intervals"] = {k: Interval(**v) for k, v in fields["intervals"].items()}
        fields["cost"] = CostLaw(**fields["cost"]) if fields.get("cost") else None
        for name in ("dropped", "optimum", "warnings"):
            fields[name] = tuple(fields[name])
        fields["remarks"] = tuple(fields.get("remarks", ()))  # older files have none
        for name in ("covariance", "draws", "influence"):
            rows = fields.get(name)
            fields[name] = None if rows is None else tuple(tuple(row) for row in rows)
        fields["others"] = tuple(cls.from_json({"schema": SCHEMA, **o}) for o in fields["others"])
        return cls(**fields)
