"""`metrics.csv` of Lightning's CSVLogger, with the `hparams.yaml` beside it.

Training and evaluation metrics stand in rows of their own, with empty cells for the other's; a loss
that is no number any more is written as nan. Lightning's `step` is that of the last
batch, counted from 0: after step 49 fifty batches are done.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalekit.errors import InputError
from scalekit.importers._cells import flatten
from scalekit.importers._curve_table import find_divergence, loss_names
from scalekit.importers._separated import header, read_separated
from scalekit.importers.base import Imported, Importer, Source

_FILE = "metrics.csv"
_HPARAMS = "hparams.yaml"


def _recognise(source: Source) -> bool:
    return source.name == _FILE and "step" in header(source)


def _read(sources: Sequence[Source], text: Collection[str]) -> Imported:
    (source,) = sources
    columns, remarks = read_separated(source, text)
    if "step" not in columns:
        raise InputError(f"{source.path}: no column 'step'; name a {_FILE} of Lightning")
    facts, notes = _hparams(source.path.with_name(_HPARAMS))
    n_rows = len(columns["step"])
    given: dict[str, Any] = {f"hparams.{name}": [value] * n_rows for name, value in facts.items()}
    losses = loss_names(columns)
    words, _ = read_separated(source, losses)
    if lost := find_divergence({name: words[name] for name in losses}):
        given["status"] = ["diverged"] * n_rows
        notes.append(f"{source.path}: the run ends with {lost}; it is called diverged")
    return Imported(
        {**columns, **given},
        about={"step": "Lightning's, the last batch's, counted from 0: step 49 is 50 batches"},
        remarks=remarks,
        notes=notes,
        is_history=True,
    )


def _hparams(path: Path) -> tuple[Mapping[str, Any], list[str]]:
    """Read the hyperparameters beside a log, where they are plain values."""
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        return {}, [f"{path}: cannot be read, {reason}; its hyperparameters are left out"]
    if not isinstance(value, Mapping):
        return {}, [f"{path}: holds no names and values; it is left out"]
    return dict(flatten({str(name): item for name, item in value.items()})), []


IMPORTER = Importer(
    name="lightning",
    about="metrics.csv of Lightning's CSVLogger",
    recognise=_recognise,
    read=_read,
    run_folder=lambda path: path.parent,
    beside=(_HPARAMS,),
)
