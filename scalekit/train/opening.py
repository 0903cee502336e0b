"""What a run begins with: its config, its data, and what earlier attempts left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from scalekit import registry
from scalekit.datasets.base import Corpus, Rows, check_supply
from scalekit.errors import InputError
from scalekit.results.record import RunRecord, holds_torn_headers_only, read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunConfig, RunSpec
from scalekit.train.checkpoint import Checkpoints


def read_config(spec: RunSpec) -> RunConfig:
    """Return a planned run's config.

    Raises:
        InputError: The plan holds what no run can be made of.
    """
    try:
        return RunConfig.model_validate(spec.config)
    except ValidationError as error:
        first = error.errors()[0]
        place, value = ".".join(map(str, first["loc"])), first["input"]
        raise InputError(
            f"{place}: {value!r} in the plan of run {spec.id}, {first['msg'].lower()}; run the "
            "sweep command again, it rewrites the plan"
        ) from error


def count_rows(config: RunConfig) -> int:
    """Return the rows of a step.

    Raises:
        InputError: They are not whole.
    """
    if config.train.batch_tokens % config.model.context:
        raise InputError(
            f"train.batch_tokens: {config.train.batch_tokens} is not a whole number of rows of "
            f"model.context {config.model.context}; choose a multiple"
        )
    return config.train.batch_tokens // config.model.context


def open_corpus(config: RunConfig) -> Corpus:
    """Open the data and refuse what it cannot give.

    Raises:
        InputError: Too few tokens, a vocabulary too small, or another text than was planned.
    """
    member = registry.find("datasets", config.data.source)
    data = config.data.model_dump()
    corpus = member.open(data, config.model.context, config.train.seed)
    assert config.train.tokens is not None
    assert config.model.vocab is not None
    n_rows, _ = member.n_rows(data, config.model.context)
    check_supply(config.train.tokens, n_rows and n_rows * config.model.context, data)
    needed = corpus.facts["vocab"]
    if needed is not None and config.model.vocab < needed:
        raise InputError(
            f"model.vocab: {config.model.vocab}, but {config.data.source!r} has {needed} different "
            "tokens; raise it to that"
        )
    planned, found = config.data.fingerprint, corpus.facts["fingerprint"]
    if planned is not None and planned != found:
        raise InputError(
            f"data.fingerprint: planned {planned!r}, found {found!r}, so {config.data.source!r} "
            "holds other text here than where the sweep was planned; plan it again here"
        )
    looked_at = {
        split: KnownRows(rows, config.model.vocab, config.data.source, needed)
        for split, rows in (("train", corpus.train), ("val", corpus.val))
    }
    return replace(corpus, **looked_at)


@dataclass(frozen=True)
class KnownRows:
    """Rows of which every token has a place in the model's vocabulary.

    Not every source knows its largest token, and a kernel reads behind its tables unasked.

    Attributes:
        rows: What they are of.
        vocab: The model's vocabulary.
        source: For the message.
        known: The vocabulary that the source says it has, or None.
    """

    rows: Rows
    vocab: int
    source: str
    known: int | None = None

    @property
    def n_rows(self) -> int | None:
        """Return how many different rows there are; None when the source never ends."""
        return self.rows.n_rows

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, T + 1) for indices (B,).

        Raises:
            InputError: A token lies outside of the vocabulary.
        """
        rows = self.rows.take(indices)
        largest = int(rows.max())
        if largest >= self.vocab:
            if self.known is not None:  # and no vocabulary of a model is smaller
                raise InputError(
                    f"data.source: {self.source!r} has {self.known} different tokens and holds "
                    f"token {largest}, so it is damaged; see scalekit data check, and prepare it "
                    "again"
                )
            raise InputError(
                f"model.vocab: {self.vocab}, but {self.source!r} holds token {largest}; "
                "raise model.vocab above it"
            )
        return rows


def data_facts(corpus: Corpus, config: RunConfig) -> dict[str, Any]:
    """Return what is known about the data, with the different tokens that this run is to see."""
    assert config.train.tokens is not None
    context = config.model.context
    seen = corpus.ordered(config.train.seed).seen(int(config.train.tokens) // context)
    return {**corpus.facts, "unique_tokens": seen.unique * context, "epochs": seen.epochs}


def read_before(folder: SweepFolder, run_id: str) -> RunRecord | None:
    """Read what earlier attempts wrote: None where none of them got past its header."""
    path = folder.record(run_id)
    try:
        before = read_record(path)
    except InputError:
        if holds_torn_headers_only(path):
            return None
        raise
    owner = before.header.get("id")
    if owner != run_id:
        raise InputError(f"{path}: belongs to run {owner!r}; move the file away and run again")
    return before


def drop_strays(checkpoints: Checkpoints, report: Callable[[str], None]) -> None:
    """Remove checkpoints whose record is gone: a run that used them would lack its beginning."""
    if checkpoints.newest_first():
        report(
            f"{checkpoints.folder}: checkpoints without the record they belong to, removed; this "
            "run starts from its beginning"
        )
        checkpoints.remove()
