"""How a source made elsewhere shall be read: the options that settle what a file leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from scalekit.counting import FLOPS_KINDS, PARAMS_KINDS
from scalekit.errors import UsageError, did_you_mean
from scalekit.results.history import FINAL, parse_at

LOSS_UNITS = {
    "nats/token": "nats",
    "bits/token": "bits",
    "bits/byte": "bpb",
    "nats/byte": "npb",
    "bits/character": "bpc",
}
"""Units of a loss, and the short word for each."""


@dataclass(frozen=True)
class Reading:
    """What the user said of a source.

    Attributes:
        mapping: Columns to rename or compute, by new name.
        params_kind: Which count of parameters `params` shall be, a name of `PARAMS_KINDS`.
        flops_kind: The same for `flops`, of `FLOPS_KINDS`.
        loss_unit: The unit of `loss`, of `LOSS_UNITS`.
        at: Which checkpoint stands for a run, see `history.parse_at`; of a log the final one
            unless given, while a table with several rows a run must be told.
        smooth: How many losses, the chosen one last, are averaged.
        facts: A table of what the logs do not say, joined by its column `run`.
        importer: Who reads the files; whoever recognises them unless given.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    params_kind: str | None = None
    flops_kind: str | None = None
    loss_unit: str | None = None
    at: str | None = None
    smooth: int = 1
    facts: str | None = None
    importer: str | None = None

    def checked(self) -> Reading:
        """Return the reading with short words written out.

        Raises:
            UsageError: A kind, unit or checkpoint that does not exist.
        """
        _check("--n-kind", self.params_kind, PARAMS_KINDS)
        _check("--flops-kind", self.flops_kind, FLOPS_KINDS)
        short = {word: unit for unit, word in LOSS_UNITS.items()}
        unit = short.get(self.loss_unit or "", self.loss_unit)
        _check("--loss-unit", unit, [*LOSS_UNITS, *short])
        parse_at(self.at or FINAL)
        if self.smooth < 1:
            raise UsageError(
                f"--smooth {self.smooth}: fewer than one loss; 1 leaves them as logged"
            )
        return replace(self, loss_unit=unit)

    def to_json(self) -> dict[str, Any]:
        """Return what was asked, to be kept beside a result."""
        return {name: value for name, value in asdict(self).items() if value != _PLAIN[name]}


_PLAIN = asdict(Reading())


def _check(option: str, word: str | None, choices: Sequence[str]) -> None:
    if word is not None and word not in choices:
        raise UsageError(f"{option} {word!r}: unknown; {did_you_mean(word, choices)}")
