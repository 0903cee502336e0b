"""Words for what a number counts: which parameters, which FLOPs, which loss."""

from __future__ import annotations

_PARAMS_WORDS = {
    "total": "total",
    "non_embedding_head": "non-embedding + head",
    "non_embedding": "non-embedding",
    "unstated": "count not stated",
    "mixed": "mixed counts",
    "": "count not stated",
}

_LOSS_WORDS = {
    "nats": "nats/token",
    "nats_per_token": "nats/token",
    "nats/token": "nats/token",
    "bpb": "bits/byte",
    "bits_per_byte": "bits/byte",
    "bits/byte": "bits/byte",
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
    """Say the unit of a loss."""
    return _LOSS_WORDS.get(unit, unit.replace("_", " "))


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


def compute_number(value: float) -> str:
    """Write a number of FLOPs for a sentence.

    >>> compute_number(1e21), compute_number(3.16e19)
    ('1e21', '3.16e19')
    """
    mantissa, power = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
