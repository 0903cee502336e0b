"""A trained run as a folder that Hugging Face's libraries open: weights, config, tokenizer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalekit import registry
from scalekit.errors import InputError, SystemTroubleError
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.results.table import file_hash
from scalekit.sweep.spec import RunSpec
from scalekit.train._tokenizer_files import tokenizer_files
from scalekit.train.weights import Weights, newest_weights

if TYPE_CHECKING:
    from scalekit.models.base import Layout

SCHEMA = "scalekit.export/1"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        architecture: As which it opens.
        step: After which step of the run.
        steps: Of how many.
        files: The names of the files.
        tokenizer: Its identity, or None where none could be written.
        note: What a person has to know of the tokenizer, or why there is none.
    """

    architecture: str
    step: int
    steps: int
    files: tuple[str, ...]
    tokenizer: str | None
    note: str | None


def export_run(
    spec: RunSpec, folder: SweepFolder, out: Path, report: Callable[[str], None]
) -> Exported:
    """Write a run's newest weights in Llama's layout into a new folder, all or nothing.

    Raises:
        InputError: The architecture has no place there, the run has no weights, `out` is not
            empty, or safetensors is not installed.
        SystemTroubleError: The disk refuses.
    """
    save_file = _safetensors()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there and not empty; name a new folder")
    weights = newest_weights(folder, spec.id, report)
    layout = _lay_out(spec, weights)
    record = folder.record(spec.id)
    facts = read_record(record, steps=False).header.get("facts") if record.exists() else None
    tokenizer = tokenizer_files(spec.config, facts or {})
    # Transformers generates until it meets this token, and without one as long as it is let.
    model = {**layout.config, "eos_token_id": tokenizer.end_of_text}
    with _all_or_nothing(out) as room:
        save_file(layout.tensors, room / WEIGHTS, metadata={"format": "pt"})
        described = {
            "schema": SCHEMA,
            "id": spec.id,
            "step": weights.step,
            "config": spec.config,
            "plan": spec.plan,
            "facts": facts,
            "tokenizer": {
                "identity": tokenizer.identity,
                "checked_tokens": tokenizer.checked_tokens,
            },
            "sha256": {WEIGHTS: file_hash(room / WEIGHTS)},
        }
        for name, value in (("config.json", model), ("scalekit.json", described)):
            text = json.dumps(value, indent=2, ensure_ascii=False)
            (room / name).write_text(text + "\n", encoding="utf-8")
        for name, data in tokenizer.files.items():
            (room / name).write_bytes(data)
        # What safetensors wrote nobody else may read, whatever umask says.
        shutil.copymode(room / "config.json", room / WEIGHTS)
        files = tuple(sorted(path.name for path in room.iterdir()))
    (architecture,) = layout.config["architectures"]
    steps = int(spec.plan["steps"])
    return Exported(architecture, weights.step, steps, files, tokenizer.identity, tokenizer.note)


def _lay_out(spec: RunSpec, weights: Weights) -> Layout:
    model = spec.config["model"]
    to_llama = registry.find("models", model["arch"]).to_llama
    if to_llama is None:
        raise InputError(f"model.arch: {model['arch']!r} has no place in Llama's layout; use gpt")
    try:
        return to_llama(model, weights.state)
    except KeyError as error:
        raise InputError(
            f"run {spec.id}: its newest weights hold no {error}; export it when it is done, with "
            "log.keep_weights: true"
        ) from error


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """Lend a folder that becomes `out` at the end, or is gone."""
    scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    except OSError as error:
        raise SystemTroubleError(
            f"{out}: cannot be written, {error.strerror}; name another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _safetensors() -> Callable[..., None]:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise InputError(
            "export: the package 'safetensors' is not installed here; "
            "pip install 'scalekit-laws[export]'"
        ) from error
    return save_file
