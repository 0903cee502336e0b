"""The best batch, in tokens, of a compute-optimal run as a power of its FLOPs."""

from scalekit.laws._tuned import tuned_power

LAW = tuned_power("batch_compute", "batch_tokens", ("C",), "DeepSeek-AI 2024, arXiv:2401.02954")
