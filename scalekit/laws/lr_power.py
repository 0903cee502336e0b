"""The best learning rate as a power of params and tokens."""

from scalekit.laws._tuned import tuned_power

LAW = tuned_power("lr_power", "lr", ("N", "D"), "Li et al. 2025, arXiv:2503.04715 (Step Law)")
