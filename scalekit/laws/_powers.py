"""Laws that are sums of powers: `L = E + (sum of amplitude * product of input^-exponent)^k`.

In internal coordinates each term is the exponential of a linear function, so with k = 1 log L is
a log-sum-exp: smooth, convex, and with all sums that Newton's method needs as plain matrix
products over the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from scalekit.laws.base import Array, Frame, Law, State


@dataclass(frozen=True)
class Term:
    """One term: `amplitude * product of input^-exponent`.

    Attributes:
        amplitude: The parameter in front.
        powers: Pairs of an input's symbol and its exponent: a parameter's name, with a minus sign
            where the term grows with the input, or a number.
    """

    amplitude: str
    powers: tuple[tuple[str, str | float], ...] = ()

    @property
    def free(self) -> tuple[tuple[str, str, float], ...]:
        """The powers with a parameter: symbol, its name, and 1 or -1."""
        named = ((symbol, e) for symbol, e in self.powers if isinstance(e, str))
        return tuple((x, e.removeprefix("-"), -1.0 if e[0] == "-" else 1.0) for x, e in named)

    @property
    def fixed(self) -> tuple[tuple[str, float], ...]:
        """The powers with a number."""
        return tuple((symbol, e) for symbol, e in self.powers if not isinstance(e, str))


@dataclass(frozen=True)
class PowerLaw(Law):
    """A sum of powers.

    Attributes:
        terms: The powers, without the irreducible loss.
        floor: The parameter that is the irreducible loss, or None.
        outer: The parameter that is the outer exponent k, or None for 1.
        unsearched: Exponents that every start has at zero instead of on a grid.
    """

    terms: tuple[Term, ...] = ()
    floor: str | None = None
    outer: str | None = None
    unsearched: frozenset[str] = frozenset()

    @cached_property
    def _blocks(self) -> tuple[tuple[Term, list[int]], ...]:
        """Each term with the positions of its amplitude and its free exponents."""
        found = []
        for term in self.terms:
            free = [self.index(name) for _, name, _ in term.free]
            found.append((term, [self.index(term.amplitude), *free]))
        return tuple(found)

    def frame(
        self, inputs: Mapping[str, Array], centre: Mapping[str, float] | None = None
    ) -> Frame:
        """Centre the inputs and lay out each term's basis."""
        return self.lay_out(super().frame(inputs, centre))

    def lay_out(self, plain: Frame) -> Frame:
        """Add each term's basis, (its parameters, n), to a frame with centred logarithms."""
        n = len(next(iter(plain.logs.values())))
        bases, offsets = [], []
        for term in self.terms:
            rows = [np.ones(n)]
            offset = np.zeros(n)
            rows += [-sign * plain.logs[symbol] for symbol, _, sign in term.free]
            for symbol, exponent in term.fixed:
                offset = offset - exponent * plain.logs[symbol]
            bases.append(np.stack(rows))
            offsets.append(offset)
        return Frame(plain.centre, plain.logs, (tuple(bases), tuple(offsets), _products(bases)))

    def state(self, phi: Array, frame: Frame) -> State:
        """Evaluate log L and each term's share of the loss."""
        bases, offsets, _ = frame.extra
        parts = []
        for (_, index), basis, offset in zip(self._blocks, bases, offsets, strict=True):
            parts.append(np.exp(phi[:, index] @ basis + offset))
        inner = parts[0].copy() if len(parts) == 1 else parts[0] + parts[1]
        for part in parts[2:]:
            inner += part
        lifted = inner
        if self.outer is not None:
            lifted = inner ** phi[:, [self.index(self.outer)]]
        total = lifted
        if self.floor is not None:
            total = lifted + np.exp(phi[:, [self.index(self.floor)]])
        return State(np.log(total), phi, frame, (parts, inner, lifted, total))

    def jacobian(self, state: State) -> Array:
        """Differentiate log L by the internal coordinates."""
        parts, inner, lifted, total = state.parts
        bases = state.frame.extra[0]
        jac = np.zeros((*state.phi.shape, state.log_loss.shape[1]))
        slope = lifted / total / inner
        if self.outer is not None:
            k = self.index(self.outer)
            slope = slope * state.phi[:, [k]]
            jac[:, k] = lifted / total * np.log(inner)
        for (_, index), basis, part in zip(self._blocks, bases, parts, strict=True):
            share = slope * part
            for i, row in zip(index, basis, strict=True):
                jac[:, i] += share * row
        if self.floor is not None:
            e = self.index(self.floor)
            jac[:, e] = np.exp(state.phi[:, [e]]) / total
        return jac

    def sums(self, state: State, v: Array, w: Array, g: Array) -> tuple[Array, Array]:
        """Add up over the runs; with k = 1 by products of precomputed columns only."""
        if self.outer is not None:
            return super().sums(state, v, w, g)
        parts, _, _, total = state.parts
        bases, _, products = state.frame.extra
        blocks = [index for _, index in self._blocks]
        shares = [part / total for part in parts]
        rows = list(bases)
        if self.floor is not None:
            e = self.index(self.floor)
            shares.append(np.exp(state.phi[:, [e]]) / total)
            blocks.append([e])
            rows.append(np.ones((1, total.shape[1])))
        p = state.phi.shape[1]
        gradient = np.zeros((len(total), p))
        square = np.zeros((len(total), p, p))
        weighted = [w * share for share in shares]
        # Built once: np.ix_ in the loop was a third of a small fit's time.
        down = [np.array(block)[:, None] for block in blocks]
        for i, j in combinations_with_replacement(range(len(blocks)), 2):
            weight = weighted[i] * shares[j]
            if i == j:
                gradient[:, blocks[i]] += (v * shares[i]) @ rows[i].T
                weight += g * shares[i]
            found = self._pair(weight, i, j, rows, products)
            square[:, down[i], blocks[j]] += found
            if i != j:
                square[:, down[j], blocks[i]] += found.transpose(0, 2, 1)
        return gradient, square

    def _pair(self, weight: Array, i: int, j: int, rows: list[Array], products: Any) -> Array:
        last = len(self.terms)
        if j < last:
            flat = weight @ products[i, j]
        else:
            flat = weight @ (rows[i].T if i < last else rows[j].T)
        return flat.reshape(len(weight), len(rows[i]), len(rows[j]))

    def curvature(self, state: State, g: Array) -> Array:
        """Sum g times the loss's second derivatives over the loss, in closed form."""
        parts, inner, lifted, total = state.parts
        bases = state.frame.extra[0]
        p = state.phi.shape[1]
        n_states, n = total.shape
        ds = np.zeros((n_states, p, n))
        found = np.zeros((n_states, p, p))
        k = state.phi[:, [self.index(self.outer)]] if self.outer else np.ones((n_states, 1))
        outer = g * lifted / total
        for (_, index), basis, part in zip(self._blocks, bases, parts, strict=True):
            share = part / inner
            for a, row in zip(index, basis, strict=True):
                ds[:, a] += share * row
                for b, other in zip(index, basis, strict=True):
                    found[:, a, b] += (outer * k * share) @ (row * other)
        du = ds * k[:, :, None]
        if self.outer is not None:
            o = self.index(self.outer)
            du[:, o] = np.log(inner)
            cross = np.einsum("sn,spn->sp", outer, ds)
            found[:, o, :] += cross
            found[:, :, o] += cross
        found += (du * outer[:, None, :]) @ du.transpose(0, 2, 1)
        found -= (ds * (outer * k)[:, None, :]) @ ds.transpose(0, 2, 1)
        if self.floor is not None:
            e = self.index(self.floor)
            found[:, e, e] += np.einsum("sn,sn->s", g, np.exp(state.phi[:, [e]]) / total)
        return found

    def shift(self, phi: Array, centre: Mapping[str, float]) -> list[tuple[int, Array]]:
        """Return for each amplitude what its logarithm gains from the centre: (position, (...))."""
        found = []
        for term in self.terms:
            gain = np.zeros(phi.shape[:-1])
            for symbol, name, sign in term.free:
                gain = gain + sign * phi[..., self.index(name)] * centre[symbol]
            for symbol, exponent in term.fixed:
                gain = gain + exponent * centre[symbol]
            found.append((self.index(term.amplitude), gain))
        return found

    def to_internal(self, theta: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        """Take logarithms and move amplitudes to the centre; a zero becomes -inf clipped."""
        values = np.array([float(theta[name]) for name in self.names])
        linear = np.array([p.transform == "linear" for p in self.params])
        with np.errstate(divide="ignore"):
            phi = np.where(linear, values, np.maximum(np.log(np.abs(values)), -700.0))
        for position, gain in self.shift(phi, centre):
            phi[position] -= gain
        return phi

    def to_published(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Undo `to_internal`."""
        moved = np.array(phi, dtype=float)
        for position, gain in self.shift(phi, centre):
            moved[..., position] += gain
        linear = np.array([p.transform == "linear" for p in self.params])
        return np.where(linear, moved, np.exp(np.where(linear, 0.0, moved)))

    def published_jacobian(self, phi: Array, centre: Mapping[str, float]) -> Array:
        """Differentiate the published parameters by the internal coordinates: (p, p)."""
        values = self.to_published(phi, centre)
        linear = np.array([p.transform == "linear" for p in self.params])
        turn = np.diag(np.where(linear, 1.0, values))
        for term in self.terms:
            row = self.index(term.amplitude)
            for symbol, name, sign in term.free:
                turn[row, self.index(name)] += sign * values[row] * centre[symbol]
        return turn

    def allocation(self, theta: Mapping[str, float]) -> tuple[float, float, float, float] | None:
        """Read the N term and the D term; an outer exponent does not move the optimum."""
        by_input = {t.powers[0][0]: t for t in self.terms if len(t.powers) == 1}
        if len(self.terms) != 2 or set(by_input) != {"N", "D"}:
            return None
        found = []
        for symbol in ("N", "D"):
            exponent = by_input[symbol].powers[0][1]
            value = theta[exponent] if isinstance(exponent, str) else exponent
            found += [float(theta[by_input[symbol].amplitude]), float(value)]
        return (found[0], found[1], found[2], found[3])


def _products(bases: list[Array]) -> dict[tuple[int, int], Array]:
    """Products of every two rows of every two bases, each (n, rows_i * rows_j)."""
    found = {}
    for i, j in combinations_with_replacement(range(len(bases)), 2):
        pairs = bases[i][:, None, :] * bases[j][None, :, :]
        found[i, j] = np.ascontiguousarray(pairs.reshape(-1, pairs.shape[2]).T)
    return found
