"""TensorBoard: one folder of event files a run; `--logdir` on the one above shows them all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from scalekit.loggers.base import Logger, Shown


class _Sink:
    def __init__(self, shown: Shown) -> None:
        files: Any = import_module("tensorboard.summary.writer.event_file_writer")
        self._event: Any = import_module("tensorboard.compat.proto.event_pb2").Event
        self._summary: Any = import_module("tensorboard.compat.proto.summary_pb2").Summary
        self._writer = files.EventFileWriter(str(shown.folder / shown.id))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        summary = self._summary(value=scalars)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def close(self, status: str) -> None:
        self._writer.close()


LOGGER = Logger("tensorboard", "tensorboard", _Sink)
