"""scalekit: scaling-law sweeps, from a YAML file to a law with honest intervals.

The names below are resolved on first use, so that `import scalekit` costs nothing.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_sweep": "scalekit.sweep.load",
    "plan_sweep": "scalekit.sweep.plan",
    "read_table": "scalekit.results.table",
    "collect": "scalekit.results.collect",
    "Reading": "scalekit.results.reading",
    "fit": "scalekit.fit.run",
    "predict": "scalekit.analysis.allocation",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604  # the dict holds strings


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'scalekit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
