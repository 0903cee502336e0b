"""One row a run: what the plan asked, what the record says came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from scalekit.errors import InputError, did_you_mean
from scalekit.importers._cells import flatten
from scalekit.results.code import surely_differ
from scalekit.results.doubts import CODE_CHANGED
from scalekit.results.jobs import submitted_codes
from scalekit.results.record import RunRecord, read_record
from scalekit.results.scores import score_columns
from scalekit.results.states import PENDING, RunState, read_state, record_names
from scalekit.results.store import SweepFolder

LOSS_UNIT = "nats/token"

NOT_SWEPT = (
    *("log.", "eval.", "data.path", "data.fingerprint"),
    *("start.folder", "start.run", "start.step"),
)
"""Beginnings of config keys that tell nothing about a run's result, or have a column anyway."""

_SPENT = (
    *("wall_s", "device_s", "startup_s", "eval_s", "checkpoint_s"),
    *("energy_j", "mfu", "tokens_per_second", "peak_memory_bytes", "attempts"),
)


def sweep_rows(
    folder: SweepFolder, asked: Mapping[str, str | None]
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Read a sweep's folder into one row a planned run, in the plan's order.

    `asked` has the kinds for `params` and `flops`, or None for the plan's own.

    Returns:
        The rows, and in sentences what a reader of them must know: records that cannot be read
        (their runs are listed without a result), records of no planned run (left out).

    Raises:
        InputError: No plan, an empty one, or one without the kind asked for.
    """
    lines = list(folder.plan_lines())
    if not lines:
        raise InputError(f"{folder.plan_file}: no runs in it; run the sweep command again")
    has_branches = any("parent" in line["plan"] for line in lines)
    swept = tuple(_swept_keys([line["config"] for line in lines]))
    sweep = _Sweep(folder, asked, swept, submitted_codes(folder), has_branches)
    rows, notes = [], []
    present = record_names(folder)
    for line in lines:
        state = read_state(folder.record(line["id"])) if line["id"] in present else PENDING
        try:
            record = _record(folder, line["id"], state)
        except InputError as error:
            state, record = RunState("unreadable"), None
            notes.append(str(error))
        rows.append(_row(sweep, line, state, record))
    scored, doubts = score_columns([row.pop("tasks", {}) for row in rows])
    rows = [{**row, **scores} for row, scores in zip(rows, scored, strict=True)]
    notes += doubts
    unplanned = sorted(present - {line["id"] for line in lines})
    if unplanned:
        shown = ", ".join(unplanned[:5]) + (", ..." if len(unplanned) > 5 else "")
        notes.append(
            f"{folder.root}: {len(unplanned)} records belong to no run of the plan and are left "
            f"out: {shown}"
        )
    notes += _budget_note(folder, lines, asked["flops"])
    return rows, tuple(notes)


@dataclass(frozen=True)
class _Sweep:
    folder: SweepFolder
    asked: Mapping[str, str | None]
    swept: Sequence[str]
    submitted: Mapping[str, frozenset[str]]
    has_branches: bool

    def kind(self, plan: Mapping[str, Any], name: str) -> str:
        kind = self.asked[name] or plan[f"{name}_kind"]
        if kind not in plan[name]:
            raise InputError(
                f"{self.folder.plan_file}: {name} are not counted as {kind!r} there; "
                f"{did_you_mean(kind, plan[name])}"
            )
        return kind


def _record(folder: SweepFolder, run: str, state: RunState) -> RunRecord | None:
    """Read a run's record; None where there is none, or a killed writer left no whole line."""
    began = state.status != "pending" and (state.is_finished or state.last)
    if not began and state.status != "unreadable":
        return None
    path = folder.record(run)
    record = read_record(path, steps=False)
    if record.header.get("id") != run:
        raise InputError(
            f"{path}: holds run {record.header.get('id')!r}; move the file away and run again"
        )
    return record


def _row(
    sweep: _Sweep, line: Mapping[str, Any], state: RunState, record: RunRecord | None
) -> dict[str, Any]:
    plan, train = line["plan"], line["config"]["train"]
    params_kind, flops_kind = sweep.kind(plan, "params"), sweep.kind(plan, "flops")
    submitted = sweep.submitted.get(line["id"], frozenset())
    reported = {} if record is None else _reported(record, state, plan, submitted)
    tokens = reported.get("tokens", plan["tokens"])
    # A run that ended before its plan is counted up to the step of its loss.
    flops = {kind: value * (tokens / plan["tokens"]) for kind, value in plan["flops"].items()}
    values = dict(flatten(line["config"]))
    if train.get("average_frac") and reported:
        reported["flags"] = f"{reported['flags']} averaged".strip()
    return {
        "run": line["id"],
        "source": sweep.folder.root.name,
        "group": plan.get("group"),
        "status": state.status,
        "budget": plan.get("budget"),
        "params": plan["params"][params_kind],
        "params_kind": params_kind,
        "flops": flops[flops_kind],
        "flops_kind": flops_kind,
        "loss_unit": LOSS_UNIT,
        "seed": train.get("seed"),
        "lr": train.get("lr"),
        "batch_tokens": train.get("batch_tokens"),
        **{f"params_{kind}": count for kind, count in plan["params"].items()},
        **{f"flops_{kind}": count for kind, count in flops.items()},
        **reported,
        "tokens": tokens,
        **{key: values.get(key) for key in sweep.swept},
        **(_branching(line["id"], plan) if sweep.has_branches else {}),
        **_started(line, record, reported.get("unique_tokens")),
    }


def _started(
    line: Mapping[str, Any], record: RunRecord | None, unique_tokens: float | None
) -> dict[str, Any]:
    """Say which run one starts from, what of it learns, and the loss before its first step.

    Laws of fine-tuning are of how much data there was to learn from: tokens that came again are
    none of it.
    """
    plan = line["plan"]
    start = plan.get("start")
    if start is None:
        return {}
    told = (record.start if record else None) or {}
    return {
        "start.method": line["config"]["start"]["method"],
        "finetune_tokens": unique_tokens,
        **{f"start_{key}": start[key] for key in ("run", "step", "tokens")},
        "trainable_params": plan["trainable_params"],
        "start_loss": told.get("val_loss"),
        "start_loss_sem": told.get("val_sem"),
    }


def _branching(run: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Say which trunk a run is of, its own where it does not branch, and where it left it."""
    return {"trunk": plan.get("parent", run), "branch_step": plan.get("branch_step")}


def _reported(
    record: RunRecord, state: RunState, plan: Mapping[str, Any], submitted: frozenset[str]
) -> dict[str, Any]:
    """Give what the record adds: the result of an ended run, and how it went.

    `submitted` has the code of each command that handed the run over.
    """
    facts = record.header.get("facts") or {}
    end = record.end or {}
    codes = list(dict.fromkeys(str(a["code"]) for a in record.attempts if a.get("code")))
    last = record.evals[-1] if record.evals and state.is_finished else {}
    flags = {
        "resumed": len(record.attempts) > 1,
        "torn": record.torn > 0,
        CODE_CHANGED: _has_changed(codes, submitted),
        "no_loss": state.is_finished and last.get("val_loss") is None,
        "not_at_end": state.status == "done" and last.get("step") != plan["steps"],
    }
    reported = {
        # Where the record does not say what the run had seen by its last evaluation, the plan's.
        "unique_tokens": last.get("unique_tokens", facts.get("unique_tokens")),
        "loss": last.get("val_loss"),
        "loss_sem": last.get("val_sem"),
        "step": last.get("step"),
        "code": codes[-1] if codes else "",
        "flags": " ".join(name for name, is_set in flags.items() if is_set),
        "val_bpb": last.get("val_bpb"),
        "tasks": last.get("tasks") or {},
        "entropy": facts.get("entropy"),
        "oracle_loss": facts.get("oracle_val_loss"),
        **{name: end.get(name) for name in _SPENT},
        **({"stack": end["stack"]} if end.get("stack") else {}),
        **_by_source(last),
    }
    if last.get("tokens") is not None and (state.status != "done" or flags["not_at_end"]):
        reported["tokens"] = last["tokens"]
    return reported


def _has_changed(codes: Sequence[str], submitted: frozenset[str]) -> bool:
    """Say whether attempts were by several states of the code, or by none that was submitted."""
    if any(surely_differ(one, other) for one, other in combinations(codes, 2)):
        return True
    return bool(submitted) and any(all(surely_differ(c, s) for s in submitted) for c in codes)


def _by_source(last: Mapping[str, Any]) -> dict[str, Any]:
    """Give a mixture's losses and epochs by source, as columns such as `val_loss_web`."""
    sources = last.get("sources") or {}
    return {
        f"{name}_{source}": line.get(name)
        for name in ("val_loss", "val_sem", "val_bpb", "epochs")
        for source, line in sources.items()
    }


def _budget_note(
    folder: SweepFolder, lines: Sequence[Mapping[str, Any]], asked: str | None
) -> list[str]:
    planned = sorted({line["plan"]["flops_kind"] for line in lines if line["plan"].get("budget")})
    if asked is None or planned in ([], [asked]):
        return []
    return [f"{folder.root}: flops are {asked} but budgets stay counted as {', '.join(planned)}"]


def _swept_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the dotted keys that differ between runs, in the config's order."""
    first = dict(flatten(configs[0]))
    differ = set()
    for config in configs[1:]:
        values = dict(flatten(config))
        differ |= {k for k in values.keys() | first.keys() if values.get(k) != first.get(k)}
    order = {key: place for place, key in enumerate(first)}
    return sorted(
        (key for key in differ if not key.startswith(NOT_SWEPT)),
        key=lambda key: (order.get(key, len(order)), key),
    )
