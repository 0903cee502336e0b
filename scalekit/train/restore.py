"""Saving and restoring a run: one file where every process holds everything, else a file a part.

Either is read by any number of processes. Where each holds the whole model, the first alone reads
and hands everything on, so that all start equal to the bit whatever they see of the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from scalekit.train.checkpoint import SCHEMA, Checkpoints
from scalekit.train.spread import Spread

State = Mapping[str, Any]


class Part(Protocol):
    """What a run is made of that changes as it trains."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return tensors under names, or under names of names."""
        ...

    def load_state_dict(self, state: Any, /) -> object:
        """Take over what `state_dict` returned."""
        ...


Parts = Mapping[str, Part]
"""A run's parts under their names in a checkpoint."""


def save_state(
    checkpoints: Checkpoints, parts: Parts, progress: Mapping[str, Any], spread: Spread
) -> None:
    """Write a checkpoint of everything that decides the numbers from here on; all call this.

    Raises:
        SystemTroubleError: The disk refuses.
    """
    step, team = progress["step"], spread.team
    state = {name: part.state_dict() for name, part in parts.items()}
    rng = torch.get_rng_state()
    if not spread.shards:
        if team.is_first:
            checkpoints.save(step, {**state, "progress": dict(progress), "torch_rng": rng})
        return
    from scalekit.train.sharded_checkpoint import save_shards

    facts = {
        "schema": SCHEMA,
        "run": checkpoints.run_id,
        "step": step,
        "progress": dict(progress),
        "processes": team.size,
    }
    save_shards(checkpoints.shards(step), _named({**state, "torch_rng": rng}), facts, team)
    if team.is_first:
        checkpoints.drop_old()


def restore_state(
    checkpoints: Checkpoints,
    parts: Parts,
    *,
    spread: Spread,
    report: Callable[[str], None],
) -> Mapping[str, Any] | None:
    """Put a run's parts where the newest checkpoint left off, alike in every process.

    Returns:
        The progress that it holds, or None when there is no checkpoint.

    Raises:
        InputError: The newest readable checkpoint belongs to another run or to another program.
    """
    team = spread.team
    # Not onto the device, which may not have room for it beside what it is copied into.
    found = checkpoints.load(torch.device("cpu"), report) if team.is_first else None
    facts = team.agree(lambda: None if found is None else _facts(found))
    own = {name: part.state_dict() for name, part in parts.items()}
    rng = torch.get_rng_state()
    if facts is not None and facts["shards"] is not None:
        from scalekit.train.sharded_checkpoint import load_shards

        load_shards(facts["shards"], _named({**own, "torch_rng": rng}), team)
        _take_over(parts, own)
    else:
        if found is not None and not spread.shards:
            rng.copy_(found["torch_rng"])
            _take_over(parts, found)
        if team.size > 1:
            # Also without a checkpoint: every process begins with the first one's numbers.
            theirs = {} if found is None else _named({k: found[k] for k in own})
            for name, tensor in _named(own).items():
                _hand_on(tensor, theirs.get(name), spread, reads=facts is not None)
            rng = team.agree(lambda: rng)
    torch.set_rng_state(rng)
    return None if facts is None else facts["progress"]


def _facts(found: State) -> dict[str, Any]:
    return {"progress": found["progress"], "shards": found.get("shards")}


def _take_over(parts: Parts, state: State) -> None:
    for name, part in parts.items():
        part.load_state_dict(state[name])


def _hand_on(mine: Tensor, read: Tensor | None, spread: Spread, *, reads: bool) -> None:
    """Give everyone the first one's tensor, or of one that lies in parts each its own."""
    if not spread.shards:
        return spread.team.copy_from_first(mine)
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not reads:
        return None  # all were built from one seed before they were cut up
    whole = torch.empty(mine.shape, dtype=mine.dtype, device=mine.device)
    if read is not None:
        whole.copy_(read)
    with torch.no_grad(), spread.team.listening():
        if isinstance(mine, DTensor):
            mine.copy_(distribute_tensor(whole, mine.device_mesh, mine.placements))
        else:
            spread.team.copy_from_first(whole)
            mine.copy_(whole)
    return None


def _named(state: State) -> dict[str, Tensor]:
    """Name every tensor of a nested state by the way to it."""
    return dict(_walk(state))


def _walk(state: State, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _walk(value, f"{prefix}{key}/")
        elif isinstance(value, Tensor):
            yield f"{prefix}{key}", value
