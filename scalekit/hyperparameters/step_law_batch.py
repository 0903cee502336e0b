"""The batch of Step Law, from tokens."""

from scalekit.hyperparameters.base import Rule

RULE = Rule(
    name="step_law_batch",
    inputs=("D",),
    gives="tokens a batch",
    formula="0.58 D^0.571",
    source="Li et al. 2025, arXiv:2503.04715",
    fitted_on="together with step_law_lr",
    compute=lambda D: 0.58 * D**0.571,
    # Of the dense runs in github.com/step-law/steplaw, data/dense_lr_bs_loss.csv.
    fitted_range={"D": (4e9, 1e11)},
)
