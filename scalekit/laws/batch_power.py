"""The best batch, in tokens, as a power of params and tokens.

The published law leaves params out: fix `exponent_N` at zero to fit that.
"""

from scalekit.laws._tuned import tuned_power

LAW = tuned_power(
    "batch_power", "batch_tokens", ("N", "D"), "Li et al. 2025, arXiv:2503.04715 (Step Law)"
)
