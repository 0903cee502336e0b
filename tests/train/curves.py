"""What of a record must be equal, bit for bit, however often its run was killed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec

MAY_DIFFER = {
    "step": {"wall_s", "device_s", "tokens_per_second", "data_wait_s"},
    "eval": set(),
    "end": {
        *("wall_s", "device_s", "startup_s", "eval_s", "checkpoint_s"),
        *("tokens_per_second", "peak_memory_bytes", "attempts"),
    },
}
"""The fields that tell of the clock or count attempts; every other field is compared.

On a GPU `mfu` and `energy_j` tell of the clock too; here both are null, and stay so.
"""


def curve(path: Path) -> dict[str, Any]:
    """Return all that a run's record says, without `MAY_DIFFER` and its attempts.

    JSON keeps every digit of a float, so equal values are equal bits.
    """
    record = read_record(path)
    assert record.end is not None, "not finished"
    assert record.end["attempts"] == record.attempts[-1]["n"] >= len(record.attempts)
    return {
        "run": record.header,
        "step": [without_clock(line) for line in record.steps],
        "eval": [without_clock(line) for line in record.evals],
        "end": without_clock(record.end),
    }


def without_clock(line: Mapping[str, Any]) -> dict[str, Any]:
    missing = MAY_DIFFER[line["t"]] - set(line)
    assert not missing, f"{line['t']} lines lack {missing}"
    return {key: value for key, value in line.items() if key not in MAY_DIFFER[line["t"]]}


def write_plan(root: Path, spec: RunSpec) -> SweepFolder:
    """Make a sweep's folder with a plan of one run."""
    folder = SweepFolder(root)
    root.mkdir(parents=True, exist_ok=True)
    folder.plan_file.write_text(json.dumps(spec.to_json()) + "\n")
    return folder


def all_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
