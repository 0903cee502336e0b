"""Where a fit starts: variable projection where a law is linear in its amplitudes, else a screen.

For fixed exponents a sum of powers is linear in its amplitudes and irreducible loss, which a small
non-negative least-squares problem settles; only the exponents are searched. Every cell of the grid
is solved at once.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from scalekit.laws._powers import PowerLaw
from scalekit.laws.base import Array, Frame, Law

_CELLS = 400
_SCREENED = 2000
_BETTER_PART = 16


def spread_starts(law: Law, frame: Frame, log_observed: Array, *, count: int, seed: int) -> Array:
    """Choose starting points (at most `count`, p): promising ones, far from each other."""
    if isinstance(law, PowerLaw) and law.outer is None:
        phi, value = project(law, frame, log_observed)
    else:
        phi = np.clip(law.grid(_SCREENED, seed), *law.box)
        value = _screen(law, frame, log_observed, phi)
    return phi[_apart(phi, value, count)]


def _screen(law: Law, frame: Frame, log_observed: Array, phi: Array) -> Array:
    """Score points by least absolute deviation of log loss: (S,)."""
    values = []
    size = max(1, 200_000 // len(log_observed))
    for first in range(0, len(phi), size):
        with np.errstate(all="ignore"):
            log_loss = law.state(phi[first : first + size], frame).log_loss
            values.append(np.abs(log_observed - log_loss).sum(axis=1))
    return np.nan_to_num(np.concatenate(values), nan=np.inf)


def _apart(phi: Array, value: Array, count: int) -> Array:
    """Take the best point of every corner of the better part of the points, best first.

    Corners are what a median split of each coordinate makes: cheap, and enough that the starts do
    not all sit in one valley. The worse part only costs time: from there the way down is long.
    """
    order = np.argsort(value, kind="stable")
    order = order[np.isfinite(value[order])]
    order = order[: max(count, len(order) // _BETTER_PART)]
    corner = (phi[order] > np.median(phi[order], axis=0)).astype(int) @ (
        1 << np.arange(phi.shape[1])
    )
    _, first = np.unique(corner, return_index=True)
    leaders = np.sort(first)[:count]
    rest = np.setdiff1d(np.arange(len(order)), leaders)[: count - len(leaders)]
    return order[np.concatenate([leaders, rest])]


def project(law: PowerLaw, frame: Frame, log_observed: Array) -> tuple[Array, Array]:
    """Solve the amplitudes on a grid of exponents: points (S, p) and their sums of squares (S,).

    Residuals are relative to the observed loss, which is log loss to first order.
    """
    names = sorted({e for t in law.terms for _, e in t.powers if isinstance(e, str)}, key=law.index)
    per_axis = max(2, round(_CELLS ** (1 / max(len(names), 1))))
    axes = []
    for name in names:
        param = law.params[law.index(name)]
        low, high = max(param.low, 0.03), min(param.high, 1.6)
        axes.append(np.geomspace(low, high, per_axis))
    mesh = np.meshgrid(*axes, indexing="ij")
    exponents = {name: axis.ravel() for name, axis in zip(names, mesh, strict=True)}
    cells = mesh[0].size if mesh else 1
    weight = np.exp(-log_observed)
    columns, owners = [], []
    if law.floor is not None:
        columns.append(np.broadcast_to(weight, (cells, len(weight))))
        owners.append(law.index(law.floor))
    for term in law.terms:
        power = np.zeros((cells, len(weight)))
        for symbol, exponent in term.powers:
            value = exponents[exponent][:, None] if isinstance(exponent, str) else exponent
            power -= value * frame.logs[symbol]
        columns.append(np.exp(power) * weight)
        owners.append(law.index(term.amplitude))
    basis = np.stack(columns, axis=1)
    amplitudes, value = _non_negative(basis)
    phi = np.empty((cells, len(law.params)))
    for name, grid in exponents.items():
        phi[:, law.index(name)] = grid
    low, _ = law.box
    for owner, amplitude in zip(owners, amplitudes.T, strict=True):
        with np.errstate(divide="ignore"):
            phi[:, owner] = np.maximum(np.log(amplitude), low[owner])
    return np.clip(phi, *law.box), value


def _non_negative(basis: Array) -> tuple[Array, Array]:
    """Fit ones by non-negative combinations of columns: basis (S, c, n) -> (S, c), squares (S,).

    With so few columns every subset is tried; the best that stays non-negative is the solution.
    """
    cells, width, n = basis.shape
    normal = basis @ basis.transpose(0, 2, 1)
    target = basis.sum(axis=2)
    best = np.full(cells, np.inf)
    solution = np.zeros((cells, width))
    for size in range(width, 0, -1):
        for subset in combinations(range(width), size):
            kept = list(subset)
            small = normal[:, kept][:, :, kept]
            scale = np.einsum("sii->s", small)[:, None, None] * 1e-15
            found = np.linalg.solve(small + scale * np.eye(size), target[:, kept][:, :, None])
            found = found[:, :, 0]
            value = n - np.einsum("sc,sc->s", found, target[:, kept])
            wins = (found > 0).all(axis=1) & (value < best)
            best[wins] = value[wins]
            solution[wins] = 0.0
            solution[np.ix_(wins, kept)] = found[wins]
    return solution, best
