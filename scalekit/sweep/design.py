"""What a set of (params, tokens) points can tell: prior optimum, precision, sizes that are missing.

Pure Python, so that a plan of ten thousand runs needs no numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PriorLaw:
    """A published law L = E + A N^-alpha + B D^-beta, used before there are measurements.

    `params_from` is the smallest model it was fitted on: below it the law is an extrapolation.
    """

    name: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    params_from: float

    @property
    def exponent(self) -> float:
        """The exponent of N*(C)."""
        return self.beta / (self.alpha + self.beta)

    def loss(self, N: float, D: float) -> float:
        """Return the loss in nats per token."""
        return self.E + self.A * N**-self.alpha + self.B * D**-self.beta

    def optimum(self, C: float, cost: float = 6.0) -> float:
        """Return the compute-optimal params for C FLOPs, with `cost` FLOPs a token and parameter.

        Source: Hoffmann et al. 2022, arXiv:2203.15556, equation 4.
        """
        scale = self.alpha * self.A / (self.beta * self.B)
        return scale ** (1 / (self.alpha + self.beta)) * (C / cost) ** self.exponent


BESIROGLU = PriorLaw(
    name="Besiroglu et al. 2024",
    E=1.8172,
    A=482.01,
    B=2085.43,
    alpha=0.3478,
    beta=0.3658,
    params_from=44e6,
)
"""arXiv:2404.10102: the runs of Hoffmann et al. fitted again; total params and 6 N D FLOPs."""


def exponent_sd(law: PriorLaw, points: Iterable[tuple[float, float]], noise: float) -> float:
    """Return the standard deviation that runs at `points` would give to the exponent of N*(C).

    Gauss-Newton at the law's own parameters: all five are free, residuals are in log loss and
    `noise` is their standard deviation. Infinite where the points do not determine the exponent.

    Args:
        law: What is assumed to be true.
        points: (params, tokens) of each run.
        noise: Relative noise of a loss.
    """
    rows = _jacobian(law, list(points))
    scale = [math.sqrt(sum(row[k] ** 2 for row in rows)) for k in range(5)]
    if len(rows) < 5 or not all(scale):
        return math.inf
    rows = [[value / s for value, s in zip(row, scale, strict=True)] for row in rows]
    normal = [[sum(row[i] * row[j] for row in rows) for j in range(5)] for i in range(5)]
    total = (law.alpha + law.beta) ** 2
    gradient = [0.0, 0.0, 0.0, -law.beta / total / scale[3], law.alpha / total / scale[4]]
    solution = _solve_positive(normal, gradient)
    if solution is None:
        return math.inf
    return noise * math.sqrt(sum(g * x for g, x in zip(gradient, solution, strict=True)))


def _jacobian(law: PriorLaw, points: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Rows of d log L / d (E, ln A, ln B, alpha, beta), with inputs centred in log."""
    if not points:
        return []
    # Centring leaves the exponent's variance as it is and improves the condition a hundredfold.
    middle_n = sum(math.log(N) for N, _ in points) / len(points)
    middle_d = sum(math.log(D) for _, D in points) / len(points)
    rows = []
    for N, D in points:
        by_params, by_tokens = law.A * N**-law.alpha, law.B * D**-law.beta
        row = [
            1.0,
            by_params,
            by_tokens,
            -by_params * (math.log(N) - middle_n),
            -by_tokens * (math.log(D) - middle_d),
        ]
        loss = law.E + by_params + by_tokens
        rows.append([value / loss for value in row])
    return rows


def _solve_positive(
    matrix: Sequence[Sequence[float]], right: Sequence[float]
) -> list[float] | None:
    """Solve by Cholesky; None where the unit-diagonal matrix is singular to working precision."""
    n = len(right)
    lower = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            if i == j:
                # The diagonal is one; below this the pivot is rounding, not information.
                if rest < 1e-13:
                    return None
                lower[i][i] = math.sqrt(rest)
            else:
                lower[i][j] = rest / lower[j][j]
    forward: list[float] = []
    for i in range(n):
        forward.append((right[i] - sum(lower[i][k] * forward[k] for k in range(i))) / lower[i][i])
    back = [0.0] * n
    for i in reversed(range(n)):
        below = sum(lower[k][i] * back[k] for k in range(i + 1, n))
        back[i] = (forward[i] - below) / lower[i][i]
    return back


def confounding(law: PriorLaw, points: Sequence[tuple[float, float]]) -> float:
    """Return the condition number of (A, B): how little the two can be told apart at `points`.

    The two columns N^-alpha and D^-beta are scaled to length one. On a ray D = k N it grows as
    (alpha - beta)^-2 whatever the number of runs (Kricheli et al. 2026, arXiv:2605.08541).
    """
    columns = [(N**-law.alpha, D**-law.beta) for N, D in points]
    one = math.sqrt(sum(x * x for x, _ in columns))
    two = math.sqrt(sum(y * y for _, y in columns))
    cosine = sum(x * y for x, y in columns) / (one * two)
    return (1 + cosine) / (1 - cosine) if cosine < 1 else math.inf


REACH = 4.0
"""How far from the optimum, as a factor, a valley is sampled on each side.

Noise-free, a parabola through sizes this far off misplaces the optimum of Hoffmann's surface by
1.3 %, and by 3 % at twice that (Czech et al. 2026, arXiv:2603.22339); closer in, the noise of a
loss hides the curvature."""


def fill_valley(
    sizes: Sequence[float], optimum: float, wanted: int, places: Iterable[float] | None = None
) -> tuple[float, ...]:
    """Propose params to add so that `wanted` sizes frame the optimum, two at least on each side.

    Each is placed where it is farthest, in log, from what is there.

    Args:
        sizes: The params that are there.
        optimum: Params at the bottom of the valley.
        wanted: Sizes that there should be in all.
        places: Params that can be had; any when None. There may be too few of them.
    """
    steps = 64
    if places is None:
        places = [optimum * REACH ** (2 * k / steps - 1) for k in range(steps + 1)]
    free = {n for n in places if abs(math.log(n / optimum)) <= math.log(REACH) + 1e-9}
    have, added = set(sizes), []

    def lacks(side: int) -> bool:
        logs = [side * math.log(n / optimum) for n in have]
        return sum(0 < x <= math.log(1.5 * REACH) for x in logs) < 2

    def best(among: Iterable[float]) -> float | None:
        return max(
            sorted(set(among) - have),
            key=lambda n: min((abs(math.log(n / m)) for m in have), default=1.0),
            default=None,
        )

    while True:
        # Each side first; then the whole, for as long as there are too few.
        chosen = best(n for n in free if n < optimum) if lacks(-1) else None
        if chosen is None and lacks(1):
            chosen = best(n for n in free if n > optimum)
        if chosen is None and len(have) < wanted:
            chosen = best(free)
        if chosen is None:
            return tuple(sorted(added))
        have.add(chosen)
        added.append(chosen)
