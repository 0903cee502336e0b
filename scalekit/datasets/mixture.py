"""A weighted mixture: `data.path` holds a folder of shards a source, `data.weights` their shares.

A share is one of training tokens, and all shares sum to one. Rows of the sources alternate as
evenly as whole rows allow, so that a run has the same mixture in its first hundred steps as in all
of them. Each source has its own order and its own epochs, and neither moves when a source is added.

Every source has `data.val_tokens` held-out tokens, whatever its weight: its loss is then the same
measurement in every mixture that it is part of. The loss of the mixture is their sum by weight; it
is another target for other weights, and runs that differ in them compare by source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalekit.datasets import shards
from scalekit.datasets._arrays import JoinedRows
from scalekit.datasets._turns import (
    CYCLE,
    MixedOrder,
    count_turns,
    cycle_counts,
    place_of,
    places,
    turns_of,
)
from scalekit.datasets.base import Corpus, Dataset, Share
from scalekit.errors import InputError, did_you_mean
from scalekit.quantities import read_number
from scalekit.tokenizers.base import Coder

SUM_TOLERANCE = 1e-6
"""How far the weights may be from summing to one: six digits written out, rounded."""


def read_weights(text: str | None) -> dict[str, float]:
    """Read `web=0.7, code=0.3` into weights by name, sorted by name.

    Raises:
        InputError: Not such a list, a name twice, a weight that is none, or a sum other than one.
    """
    if not text:
        raise InputError("data.weights: missing; write the sources' shares, as web=0.7, code=0.3")
    found: dict[str, float] = {}
    for entry in text.replace(",", " ").split():
        name, equals, number = entry.partition("=")
        if not (name and equals and number):
            raise InputError(
                f"data.weights: {entry!r} is no NAME=WEIGHT; write them as web=0.7, code=0.3"
            )
        if name in found:
            raise InputError(f"data.weights: {name!r} has two weights; give it one")
        try:
            found[name] = read_number(number)
        except InputError as error:
            raise InputError(
                f"data.weights: {number!r} of {name!r} is no number; write one such as 0.7"
            ) from error
        if found[name] * CYCLE < 1:
            raise InputError(
                f"data.weights: {found[name]:g} of {name!r} is less than one row in {CYCLE:,}; "
                "leave the source out or raise its weight"
            )
    total = sum(found.values())
    if abs(total - 1.0) > SUM_TOLERANCE:
        meant = ", ".join(f"{name}={weight / total:.6g}" for name, weight in found.items())
        raise InputError(
            f"data.weights: sum to {total:.6g}, not 1; if their ratios are meant, write {meant}"
        )
    return dict(sorted(found.items()))


def write_weights(weights: Mapping[str, float]) -> str:
    """Write weights in the one form in which equal mixtures are equal text."""
    return ", ".join(f"{name}={weight!r}" for name, weight in weights.items())


def _sources(data: Mapping[str, Any]) -> dict[str, tuple[float, dict[str, Any]]]:
    """Return each source's weight and the `data` config that it has on its own."""
    weights = read_weights(data.get("weights"))
    if not data.get("path"):
        raise InputError("data.path: missing; name the folder that holds a folder a source")
    root, unique = Path(data["path"]), data.get("unique_tokens")
    missing = [name for name in weights if not (root / name).is_dir()]
    if missing:
        there = [p.name for p in sorted(root.glob("*")) if p.is_dir()]
        raise InputError(
            f"data.weights: {missing[0]!r} is no folder in {root}; "
            f"{did_you_mean(missing[0], there)}"
        )
    _check_apart({name: (root / name).resolve() for name in weights})
    return {
        name: (
            weight,
            {
                **data,
                "path": str(root / name),
                # Shared out by weight, so that all sources repeat equally often; `_whole_rows`
                # makes rows of it once their length is known.
                "unique_tokens": None if unique is None else round(unique * weight),
            },
        )
        for name, weight in weights.items()
    }


def _check_apart(folders: Mapping[str, Path]) -> None:
    """Refuse a folder under two names: its rows would come twice, and its weight as two."""
    first: dict[Path, str] = {}
    for name, folder in folders.items():
        if folder in first:
            raise InputError(
                f"data.weights: {name!r} and {first[folder]!r} are one folder, {folder}; "
                "name it once, with the sum of their weights"
            )
        first[folder] = name


def facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the sources hold together.

    `train_tokens` are those after which the first source has been seen once.

    Raises:
        InputError: A source is missing or damaged, or the sources have different tokenizers.
    """
    sources, unique = _sources({**data, "unique_tokens": None}), data.get("unique_tokens")
    known = {name: shards.facts(own) for name, (_, own) in sources.items()}
    weights = {name: weight for name, (weight, _) in sources.items()}
    available = {n: (known[n]["train_tokens"], w) for n, w in weights.items()}
    if unique is not None:
        _check_unique(available, unique)
    per_token = [known[name]["bytes_per_token"] for name in weights]
    said = [f"{name} {known[name]['fingerprint']}" for name in weights]
    return {
        "vocab": _common(known, "vocab"),
        "train_tokens": _supply(available, unique),
        "val_tokens": min(one["val_tokens"] for one in known.values()),
        "bytes_per_token": None
        if None in per_token
        else sum(weight * b for weight, b in zip(weights.values(), per_token, strict=True)),
        "fingerprint": hashlib.sha256("\n".join(said).encode()).hexdigest()[:16],
        "tokenizer": _common(known, "tokenizer"),
        "weights": write_weights(weights),
    }


def _supply(sources: Mapping[str, tuple[int, float]], unique: int | None) -> int:
    """Return the tokens of a mixture after which the first source is used up.

    Where so many different ones were asked for, every source was found to have its share of them.
    """
    if unique is not None:
        return unique
    # Up to rounding of a whole number over its share of it.
    return int(min(available / weight for available, weight in sources.values()) + 1e-6)


def _check_unique(sources: Mapping[str, tuple[int, float]], unique: int) -> None:
    """Refuse more different tokens than a source, by its tokens and weight, has its share of."""
    for name, (available, weight) in sources.items():
        if round(unique * weight) > available:
            most = min(int(there / share) for there, share in sources.values())
            raise InputError(
                f"data.unique_tokens: {unique:,} asked, {round(unique * weight):,} of them of "
                f"{name!r}, whose training split has {available:,}; ask for {most:,} or fewer"
            )


def n_rows(data: Mapping[str, Any], context: int) -> tuple[int, int]:
    """Count the rows after which the first source has been seen once, and what all hold out.

    Raises:
        InputError: A source has no row, or none among those of `data.unique_tokens`.
    """
    sources = _sources({**data, "unique_tokens": None})
    counts = cycle_counts([weight for weight, _ in sources.values()])
    there = {name: shards.n_rows(own, context) for name, (_, own) in sources.items()}
    for name, (train, _) in there.items():
        if train == 0:
            raise InputError(
                f"data.weights: {name!r} has not one row of {context} training tokens; leave the "
                "source out, or lower model.context"
            )
    most = min(place_of(counts, number, train) for number, (train, _) in enumerate(there.values()))
    unique = data.get("unique_tokens")
    if unique is not None:
        _check_shares({n: place_of(counts, i, 0) for i, n in enumerate(there)}, unique, context)
        most = min(most, unique // context)
    return most, min(val for _, val in there.values())


def _check_shares(first: Mapping[str, int], unique: int, context: int) -> None:
    """Refuse so few different tokens that a source, whose first row stands at a place, has none."""
    rows, last = unique // context, max(first, key=lambda name: first[name])
    if 0 < rows <= first[last]:
        raise InputError(
            f"data.unique_tokens: {unique:,} are {rows:,} rows of {context} tokens, of which "
            f"{last!r} has none; ask for {(first[last] + 1) * context:,} or more, or raise its "
            "weight"
        )


def _common(known: Mapping[str, Mapping[str, Any]], fact: str) -> Any:
    found = {name: one.get(fact) for name, one in known.items()}
    different = sorted(set(found.values()) - {None}, key=str)
    if len(different) > 1:
        shown = ", ".join(f"{name}: {value}" for name, value in found.items())
        raise InputError(
            f"data.path: the sources differ in their {fact}, {shown}; prepare them with one "
            "tokenizer"
        )
    return different[0] if different and None not in found.values() else None


def open_corpus(data: Mapping[str, Any], context: int, seed: int) -> Corpus:
    """Map every source; the seed changes nothing, the tokens are what they are."""
    known = facts(data)
    sources = _whole_rows(_sources(data), data.get("unique_tokens"), context)
    opened = {n: shards.open_corpus(own, context, seed) for n, (_, own) in sources.items()}
    train = [one.train for one in opened.values()]
    weights = {name: weight for name, (weight, _) in sources.items()}
    val = JoinedRows([one.val for one in opened.values()])
    n_val_rows = data["val_tokens"] // context
    said = {
        **known,
        "entropy": None,
        "oracle_val_loss": None,
        "val_tokens": val.n_rows * context,
        "sources": {
            name: {
                "weight": weights[name],
                **{f: one.facts[f] for f in ("train_tokens", "bytes_per_token", "fingerprint")},
            }
            for name, one in opened.items()
        },
    }
    shares = tuple(
        Share(name, weights[name], n_val_rows, one.held_out_bytes()) for name, one in opened.items()
    )
    return Corpus(JoinedRows(train), val, said, shares, lambda s: MixedOrder(train, weights, s))


def _whole_rows(
    sources: Mapping[str, tuple[float, dict[str, Any]]], unique: int | None, context: int
) -> dict[str, tuple[float, dict[str, Any]]]:
    """Share the rows of `unique` tokens out as the mixture takes them: an epoch repeats none."""
    if unique is None:
        return dict(sources)
    turns = places(turns_of([weight for weight, _ in sources.values()]), len(sources))
    shared = {}
    for (name, (weight, own)), mine in zip(sources.items(), turns, strict=True):
        # A share by turns may be a row more than the one by weight, which was seen to be there.
        there = shards.facts({**own, "unique_tokens": None})["train_tokens"]
        asked = count_turns(mine, unique // context) * context
        shared[name] = (weight, {**own, "unique_tokens": min(asked, there)})
    return shared


def coder(data: Mapping[str, Any]) -> Coder | None:
    """Open the tokenizer that the sources have in common."""
    opened = [shards.coder(own) for _, own in _sources(data).values()]
    identities = {None if one is None else one.identity for one in opened}
    return opened[0] if len(identities) == 1 else None


DATASET = Dataset("mixture", facts, n_rows, open_corpus, coder)
