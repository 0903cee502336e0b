"""trackio: a local database in the sweep's folder, unless TRACKIO_DIR names another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import Context
from importlib import import_module
from typing import Any

from scalekit.loggers.base import Logger, Shown


class _Sink:
    def __init__(self, shown: Shown) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(shown.folder))  # read when it is imported
        self._trackio: Any = import_module("trackio")
        # It knows one current run a context, and a stack's runs are shown by one process.
        self._context = Context()
        self._context.run(
            self._trackio.init,
            project=shown.sweep,
            name=shown.id,
            config=dict(shown.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._context.run(self._trackio.log, dict(values), step=step)

    def close(self, status: str) -> None:
        self._context.run(self._trackio.finish)


LOGGER = Logger("trackio", "trackio", _Sink)
