"""Weights & Biases: offline unless WANDB_MODE says otherwise; `wandb sync` sends it later."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from scalekit.loggers.base import Logger, Shown


class _Sink:
    def __init__(self, shown: Shown) -> None:
        wandb: Any = import_module("wandb")
        shown.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            # A folder's name may hold what a project's may not.
            project=re.sub(r"[/\\#?%:]", "-", shown.sweep)[:128],
            id=shown.id,
            name=shown.id,
            config=dict(shown.config),
            dir=str(shown.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            # A stack's runs are shown by one process, and the second would get the first one's.
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        # Its own counter refuses steps that come again; a resumed run has such.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status in ("done", "stopped") else 1)


LOGGER = Logger("wandb", "wandb", _Sink)
