"""The batch of DeepSeek LLM, from FLOPs."""

from scalekit.hyperparameters.base import Rule

RULE = Rule(
    name="deepseek_batch",
    inputs=("C",),
    gives="tokens a batch",
    formula="0.2920 C^0.3271",
    source="DeepSeek-AI 2024, arXiv:2401.02954",
    fitted_on="C as count.flops deepseek has it",
    compute=lambda C: 0.2920 * C**0.3271,
)
