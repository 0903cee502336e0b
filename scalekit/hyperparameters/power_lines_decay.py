"""The weight decay of Power Lines, which keeps AdamW's timescale on its law of tokens per param.

The timescale B / (lr decay D) is the share of training over which weights are averaged.
"""

from scalekit.hyperparameters.base import Rule


def decay(N: float, D: float, batch_tokens: float, lr: float) -> float:
    """Return the decay whose timescale is the best one at these tokens per param."""
    timescale = 1.084 * (D / N) ** -0.527
    return batch_tokens / (lr * D * timescale)


RULE = Rule(
    name="power_lines_decay",
    inputs=("N", "D", "batch_tokens", "lr"),
    gives="weight decay, decoupled and multiplied by the rate",
    formula="B / (lr D t) with t = 1.084 (D/N)^-0.527",
    source="Bergsma et al. 2025, arXiv:2505.13738",
    fitted_on="one epoch of muP models at 20 to 1280 tokens a param; lr is the hidden matrices' "
    "own, with parametrization mup lr * base_width / d_model",
    compute=decay,
    fitted_range={"D/N": (20, 1280)},
    doubt="the factor 1.084 is quoted, not read in the paper",
)
