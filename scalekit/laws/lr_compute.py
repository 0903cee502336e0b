"""The best learning rate of a compute-optimal run as a power of its FLOPs."""

from scalekit.laws._tuned import tuned_power

LAW = tuned_power("lr_compute", "lr", ("C",), "DeepSeek-AI 2024, arXiv:2401.02954")
