"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from scalekit.sweep.spec import TrainSpec


def lr_factor(step: int, steps: int, train: TrainSpec) -> float:
    """Return the learning rate of a step over its peak.

    Steps count from one. Warm-up rises linearly and reaches the peak on its last step. `cosine` and
    `wsd` end on `min_lr_frac` at the last step; `wsd` holds the peak and cools down over the last
    `decay_frac` of the steps, linearly or as 1 - sqrt (Haegele et al. 2024, arXiv:2405.18392).
    `inverse_sqrt` falls as the root of warm-up steps over steps (Vaswani et al. 2017,
    arXiv:1706.03762, equation 3), whatever the run's length; `constant` never falls.
    """
    assert 1 <= step <= steps
    warmup_steps = round(train.warmup_frac * steps)
    if step <= warmup_steps:
        return step / warmup_steps
    if train.schedule == "constant":
        return 1.0
    if train.schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup_steps) / step)
    first = warmup_steps
    if train.schedule == "wsd":
        # Warm-up and cooldown that overlap leave no plateau; the warm-up is kept whole.
        first = max(warmup_steps, steps - round(train.decay_frac * steps))
    if step <= first:
        return 1.0
    done = (step - first) / (steps - first)
    return train.min_lr_frac + (1.0 - train.min_lr_frac) * _remaining(done, train)


def _remaining(done: float, train: TrainSpec) -> float:
    """Map the share of the decay that is done to the share of the rate above its floor."""
    if train.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - (math.sqrt(done) if train.decay_shape == "sqrt" else done)
