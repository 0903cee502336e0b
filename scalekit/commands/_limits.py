"""What a plan may cost: the limit of `--budget`, and what this machine has for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from scalekit import registry
from scalekit.errors import InputError, UsageError
from scalekit.quantities import (
    count_words,
    read_duration,
    read_number,
    write_count,
    write_duration,
    write_flops,
)
from scalekit.sweep.cost import Cost
from scalekit.sweep.estimate import Estimate, memory_gb
from scalekit.sweep.review import Check, Level
from scalekit.sweep.spec import RunSpec, live_loggers, own_share


def check_limit(limit: str, start: Sequence[RunSpec], estimate: Estimate) -> None:
    """Compare what is to be started with a limit: FLOPs (1e18), device time (30h), money, energy.

    A run that continues is counted whole, a branch from where it leaves its trunk. Money is written
    in the profile's currency (500USD).

    Raises:
        UsageError: The limit is none of these.
        InputError: The runs cost more, or nobody knows how much.
    """
    cost = estimate.cost
    for unit, value in ((cost.currency, cost.price), ("kWh", cost.kwh)):
        if limit.casefold().endswith(unit.casefold()):
            return _check_unit(limit, unit, value if start else 0.0, cost)
    try:
        most = read_number(limit)
    except InputError:
        pass
    else:
        flops = sum(
            float(run.plan["flops"][run.plan["flops_kind"]]) * own_share(run.plan) for run in start
        )
        return _compare(flops, most, limit, f"{write_flops(flops)} FLOPs")
    try:
        most = read_duration(limit)
    except InputError as error:
        raise UsageError(
            f"--budget {limit!r}: neither FLOPs, a time, money nor energy; write it like 1e18, "
            f"30h, 500{cost.currency} or 20kWh"
        ) from error
    seconds = estimate.device_seconds if start else 0.0
    if seconds is None:
        raise InputError(f"--budget {limit}: these runs may take any time; {estimate.source}")
    return _compare(seconds, most, limit, f"{write_duration(seconds)} of device time")


def _check_unit(limit: str, unit: str, value: float | None, cost: Cost) -> None:
    try:
        most = read_number(limit[: -len(unit)])
    except InputError as error:
        raise UsageError(f"--budget {limit!r}: not an amount of {unit}") from error
    if value is None:
        todo = f"give {', '.join(cost.missing)} in the profile"
        on_cores = "runs on cores have neither price nor power; limit FLOPs or time"
        raise InputError(
            f"--budget {limit}: not known for these runs; {todo if cost.missing else on_cores}"
        )
    return _compare(value, most, limit, f"{write_count(value)} {unit}")


def _compare(cost: float, most: float, limit: str, said: str) -> None:
    if cost > most:
        raise InputError(
            f"--budget {limit}: the runs to start cost {said}; drop runs, shrink the budgets of "
            "the sweep, or raise the limit"
        )


def check_memory(start: Sequence[RunSpec], at_once: int) -> list[Check]:
    """Compare the largest runs that may go side by side on this machine's cores with its memory."""
    on_cores = [run for run in start if not run.resources.get("gpus")]
    needs = sorted(memory_gb(on_cores), reverse=True)[:at_once]
    need, have = sum(needs), _machine_gb()
    if have is None or need <= have:
        return []
    runs = count_words(len(needs), "run")
    text = f"{runs} at a time may need {need:.3g} GB of memory, this machine has {have:.3g}"
    todo = "take fewer at a time with --max-parallel, or smaller batches"
    return [Check(Level.WARNING, "memory", text, todo)]


def check_loggers(start: Sequence[RunSpec]) -> list[Check]:
    """Warn of loggers whose packages this machine lacks: its runs would go on without them."""
    named = {name for run in start for name in live_loggers(run.config["log"].get("live"))}
    missing = sorted(name for name in named if not _is_installed(name))
    return [
        Check(
            Level.WARNING,
            "loggers",
            f"log.live {name}: its package is not installed here, and runs go on without it",
            f"pip install 'scalekit-laws[{name}]'",
        )
        for name in missing
    ]


def _is_installed(logger: str) -> bool:
    found = find_spec(registry.find("loggers", logger).package)
    # A folder of that name, as these packages leave where they ran, is none.
    return found is not None and found.origin is not None


def _machine_gb() -> float | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError):
        return None
