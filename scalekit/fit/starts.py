"""Where a fit starts: variable projection where a law is linear in its amplitudes, else a screen.

For fixed exponents a sum of powers is linear in its amplitudes and irreducible loss, which a small
non-negative least-squares problem settles; only the exponents are searched. Every cell of the grid
is solved at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from scalekit.laws._powers import PowerLaw
from scalekit.laws.base import Array, Frame, Law

_CELLS = 400
_SCREENED = 2000
_BETTER_PART = 16
_POWERS = 6
_FLOORS = np.array([0.02, 0.2, 0.4, 0.6, 0.75, 0.87, 0.95])
"""Irreducible losses that are tried, as shares of the smallest loss."""


def spread_starts(law: Law, frame: Frame, log_observed: Array, *, count: int, seed: int) -> Array:
    """Choose starting points (at most `count`, p): promising ones, far from each other."""
    if isinstance(law, PowerLaw):
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
    """Solve the amplitudes on a grid of everything else: points (S, p) and sums of squares (S,).

    Residuals are relative to the observed loss, which is log loss to first order. With an outer
    power k the sum inside, (L - E)^(1/k), is what is linear, so E joins the grid.
    """
    names = list(dict.fromkeys(name for term in law.terms for _, name, _ in term.free))
    names = [name for name in names if name not in law.unsearched]
    axes = {name: _axis(law, name, _CELLS, len(names)) for name in names}
    least = float(log_observed.min())
    if law.outer is not None:
        axes = {name: _axis(law, name, _CELLS // 4, len(names)) for name in names}
        axes[law.outer] = _axis(law, law.outer, _POWERS, 1)
        if law.floor is not None:
            axes[law.floor] = np.exp(least) * _FLOORS
    mesh = dict(zip(axes, np.meshgrid(*axes.values(), indexing="ij"), strict=True))
    grid = {name: axis.reshape(-1, 1) for name, axis in mesh.items()}
    cells = next(iter(grid.values())).size
    weight, target = _inside(law, grid, log_observed, cells)
    columns, owners = [], []
    if law.floor is not None and law.outer is None:
        columns.append(weight)
        owners.append(law.index(law.floor))
    bases, offsets, _ = frame.extra
    for term, basis, offset in zip(law.terms, bases, offsets, strict=True):
        power = np.broadcast_to(offset, weight.shape)
        for (_, name, _), row in zip(term.free, basis[1:], strict=True):
            power = power + grid[name] * row if name in grid else power
        columns.append(np.exp(power) * weight)
        owners.append(law.index(term.amplitude))
    amplitudes, value = _non_negative(np.stack(columns, axis=1), target)
    phi = np.zeros((cells, len(law.params)))
    for name, values in grid.items():
        is_log = law.params[law.index(name)].transform == "log"
        phi[:, law.index(name)] = np.log(values[:, 0]) if is_log else values[:, 0]
    low, _ = law.box
    for owner, amplitude in zip(owners, amplitudes.T, strict=True):
        with np.errstate(divide="ignore"):
            phi[:, owner] = np.maximum(np.log(amplitude), low[owner])
    return np.clip(phi, *law.box), value


def _axis(law: PowerLaw, name: str, cells: int, n_axes: int) -> Array:
    low, high = law.params[law.index(name)].start
    space = np.geomspace if low > 0 else np.linspace
    return space(low, high, max(3, round(cells ** (1 / n_axes))))


def _inside(
    law: PowerLaw, grid: Mapping[str, Array], log_observed: Array, cells: int
) -> tuple[Array, Array]:
    """Return the weight of each column and the target of the linear problem, each (S, n).

    To first order log L moves by k (L - E) / L times the relative move of the sum inside.
    """
    if law.outer is None:
        weight = np.broadcast_to(np.exp(-log_observed), (cells, len(log_observed)))
        return weight, np.ones_like(weight)
    k = grid[law.outer]
    over = np.exp(log_observed)
    if law.floor is not None:
        over = over - grid[law.floor]
    share = np.broadcast_to(k * over * np.exp(-log_observed), (cells, len(log_observed)))
    return share * over ** (-1 / k), share


def _non_negative(basis: Array, aim: Array) -> tuple[Array, Array]:
    """Fit aim (S, n) by non-negative combinations of basis (S, c, n): (S, c), squares (S,).

    With so few columns every subset is tried; the best that stays non-negative is the solution.
    """
    cells, width, _ = basis.shape
    normal = basis @ basis.transpose(0, 2, 1)
    target = np.einsum("scn,sn->sc", basis, aim)
    whole = np.einsum("sn,sn->s", aim, aim)
    best = np.full(cells, np.inf)
    solution = np.zeros((cells, width))
    for size in range(width, 0, -1):
        for subset in combinations(range(width), size):
            kept = list(subset)
            small = normal[:, kept][:, :, kept]
            scale = np.einsum("sii->s", small)[:, None, None] * 1e-15
            found = np.linalg.solve(small + scale * np.eye(size), target[:, kept][:, :, None])
            found = found[:, :, 0]
            value = whole - np.einsum("sc,sc->s", found, target[:, kept])
            wins = (found > 0).all(axis=1) & (value < best)
            best[wins] = value[wins]
            solution[wins] = 0.0
            solution[np.ix_(wins, kept)] = found[wins]
    return solution, best
