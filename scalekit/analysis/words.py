"""Words for what a number counts: which parameters, which FLOPs, which loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalekit.quantities import write_flops

if TYPE_CHECKING:
    from scalekit.fit.result import FitResult

_PARAMS_WORDS = {
    "total": "total",
    "non_embedding_head": "non-embedding + head",
    "non_embedding": "non-embedding",
    "unstated": "count not stated",
    "mixed": "mixed counts",
    "": "count not stated",
}

_LOSS_WORDS = {
    "unstated": "unit not stated",
    "mixed": "mixed units",
    "": "unit not stated",
}

_SYMBOLS = {"alpha": "α", "beta": "β", "kappa": "κ"}  # noqa: RUF001


def symbol(name: str) -> str:
    """Write a law's parameter as the papers do."""
    return _SYMBOLS.get(name, name)


def params_words(kind: str) -> str:
    """Say which count of parameters it is."""
    return _PARAMS_WORDS.get(kind, kind.replace("_", " "))


def loss_words(unit: str) -> str:
    """Say the unit of a loss as its table does: of what a bare `nats` is, no table says.

    >>> loss_words("nats/token"), loss_words("nats"), loss_words("")
    ('nats/token', 'nats', 'unit not stated')
    """
    return _LOSS_WORDS.get(unit, unit)


def flops_words(kind: str) -> str:
    """Say how FLOPs were counted, for the inside of a bracket.

    >>> flops_words("6N_non_embedding_head"), flops_words("exact_no_head"), flops_words("")
    ('FLOPs, 6ND, N non-embedding + head', 'FLOPs, exact no head', 'FLOPs')
    """
    if kind in ("", "unstated"):
        return "FLOPs"
    if kind.startswith("6N_"):
        return f"FLOPs, 6ND, N {params_words(kind[3:])}"
    return f"FLOPs, {kind.replace('_', ' ')}"


def is_tied(fit: FitResult) -> bool:
    """Whether no run moves the exponents of the optimum: the form, --fix or a bound sets them."""
    share = fit.exponents.get("params", {})
    return share.get("low") is not None and share["low"] == share["high"]


def interval_method(fit: FitResult) -> str:
    """Name what gave the intervals of the fit's optima; empty where they have none."""
    spans = (ends for row in fit.optimum for ends in row.get("intervals", {}).values())
    return str(next((ends["method"] for ends in spans if "method" in ends), ""))


def local_words(fit: FitResult) -> str:
    """Say where a frontier that is no power of compute has its exponents; empty for a power.

    The exponents of laws without a closed form, such as those of repeated data, hold near one
    budget: where tokens begin to repeat the path bends.
    """
    known = fit.diagnostics.get("local_exponents")
    if not known:
        return ""
    low, high = known["params"]
    return (
        f" near {write_flops(known['flops'])} FLOPs; no one power: that of N* runs from "
        f"{low:.2f} to {high:.2f} over the fitted runs"
    )
