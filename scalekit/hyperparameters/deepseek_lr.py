"""The peak learning rate of DeepSeek LLM, from FLOPs."""

from scalekit.hyperparameters.base import Rule

RULE = Rule(
    name="deepseek_lr",
    inputs=("C",),
    gives="peak learning rate",
    formula="0.3118 C^-0.1250",
    source="DeepSeek-AI 2024, arXiv:2401.02954",
    fitted_on="C as count.flops deepseek has it",
    compute=lambda C: 0.3118 * C**-0.1250,
)
