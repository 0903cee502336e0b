"""A record whose lines loggers show while they are written; a logger that fails is left behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from scalekit import registry
from scalekit.loggers.base import Shown, Sink
from scalekit.results.record import RecordWriter
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec, live_loggers


def open_record(folder: SweepFolder, spec: RunSpec, report: Callable[[str], None]) -> RecordWriter:
    """Return the writer of a run's record, with the loggers that its config names."""
    names = live_loggers(spec.config["log"].get("live"))
    path = folder.record(spec.id)
    return LiveRecord(path, names, folder, spec, report) if names else RecordWriter(path)


class LiveRecord(RecordWriter):
    """A record's writer that shows step and eval lines to loggers, once they are written.

    The loggers open with the first attempt line: a run that is refused shows nothing. What goes
    wrong in one is reported and the run goes on without it.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        folder: SweepFolder,
        spec: RunSpec,
        report: Callable[[str], None],
    ) -> None:
        super().__init__(path)
        self._names, self._folder, self._spec, self._report = names, folder, spec, report
        self._sinks: dict[str, Sink] = {}
        self._status = "stopped"

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for name, sink in list(self._sinks.items()):
            self._try(name, sink.close, self._status)

    def write(self, t: str, **fields: Any) -> None:
        """Append one line of type `t`, and show it."""
        super().write(t, **fields)
        if t == "attempt":
            for name in self._names:
                self._try(name, self._open, name)
        elif t in ("step", "eval"):
            values = _numbers(fields)
            for name, sink in list(self._sinks.items()):
                self._try(name, sink.log, fields["step"], values)
        elif t == "end":
            self._status = str(fields["status"])

    def _open(self, name: str) -> None:
        shown = Shown(
            self._spec.id,
            self._folder.root.resolve().name,
            self._spec.config,
            self._folder.live(name),
        )
        self._sinks[name] = registry.find("loggers", name).open(shown)

    def _try(self, name: str, call: Callable[..., object], *args: Any) -> None:
        """Call into a logger; whatever it raises ends it and not the run."""
        try:
            with redirect_stdout(sys.stderr):  # stdout carries results
                call(*args)
        except Exception as error:  # another's code, and none of it is worth a run
            self._sinks.pop(name, None)
            self._report(
                f"logger {name!r}: {type(error).__name__}: {error}; the run goes on without it"
            )


def _numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in fields.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
