"""The peak learning rate of Step Law, from params and tokens."""

from scalekit.hyperparameters.base import Rule

RULE = Rule(
    name="step_law_lr",
    inputs=("N", "D"),
    gives="peak learning rate",
    formula="1.79 N^-0.713 D^0.307",
    source="Li et al. 2025, arXiv:2503.04715",
    fitted_on="N is N_total - N_embedding; AdamW",
    compute=lambda N, D: 1.79 * N**-0.713 * D**0.307,
    # Of the dense runs in github.com/step-law/steplaw, data/dense_lr_bs_loss.csv.
    fitted_range={"N": (2.15e8, 1.07e9), "D": (4e9, 1e11)},
)
