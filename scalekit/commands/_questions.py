"""What `predict` and `forecast` ask of a fit: which options go together, and the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit.commands.fit import read_pairs, read_positive
from scalekit.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from scalekit.analysis.ask import Ask
    from scalekit.fit.result import FitResult
    from scalekit.laws.base import Law

Entry = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """The numbers of a question, each option as a list, empty where it was not given."""

    flops: tuple[float, ...] = ()
    params: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()
    loss: tuple[float, ...] = ()
    inference_tokens: float | None = None

    @property
    def options(self) -> list[str]:
        """The options given of those that say where to look."""
        return [name for name in ("flops", "params", "tokens", "loss") if getattr(self, name)]


@dataclass(frozen=True)
class Answers:
    """Answers and what they answer: optimum, run, price (of a loss) or served."""

    question: str
    entries: Sequence[Entry]


def read_asked(
    *,
    flops: str | None = None,
    params: str | None = None,
    tokens: str | None = None,
    loss: str | None = None,
    inference_tokens: str | None = None,
) -> Asked:
    """Read the options; several numbers to an option by commas.

    Raises:
        UsageError: A word is no positive number, or options that do not go together.
    """
    lists = {"flops": flops, "params": params, "tokens": tokens, "loss": loss}
    read = {name: _numbers(f"--{name}", text) for name, text in lists.items()}
    served = None
    if inference_tokens is not None:
        served = read_positive("--inference-tokens", inference_tokens)
    asked = Asked(**read, inference_tokens=served)
    _check_together(asked)
    return asked


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    words = [word for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{option} {text!r}: no number; write {option} 1e22")
    return tuple(read_positive(option, word) for word in words)


def _check_together(asked: Asked) -> None:
    names = asked.options
    if not names:
        raise UsageError(
            "predict: nothing is asked; give --flops C, --params N with --tokens D, or --loss L"
        )
    if "loss" in names and len(names) > 1:
        raise UsageError(
            "--loss: asks for the cheapest budget, size and tokens; leave out "
            + ", ".join(f"--{n}" for n in names if n != "loss")
        )
    if len(names) == 3:
        raise UsageError("predict: two of --flops, --params and --tokens give the third; leave one")
    lengths = {name: len(getattr(asked, name)) for name in names}
    if len(set(lengths.values()) - {1}) > 1:
        counts = " and ".join(f"{n} to --{name}" for name, n in lengths.items())
        raise UsageError(f"predict: lists of different lengths, {counts}; give as many to each")
    if asked.inference_tokens is None:
        return
    if max(lengths.values()) > 1:
        raise UsageError("--inference-tokens: compares with one reference; give one number each")
    if names not in (["flops"], ["params"], ["loss"], ["params", "tokens"]):
        raise UsageError(
            "--inference-tokens: the reference is one of --params N (on the tokens that the law "
            "makes optimal), --params N --tokens D, --flops C or --loss L"
        )


def choose(fit: FitResult, law: str | None, where: Path) -> FitResult:
    """Take from a file of several fits the one of a law; the headline unless one is named.

    Raises:
        UsageError: No fit of that law is there.
    """
    if law is None:
        return fit
    fits = {one.law: one for one in (fit, *fit.others) if one.approach == "parametric"}
    if law not in fits:
        raise UsageError(f"--law {law}: {where} has no fit of it; {did_you_mean(law, fits)}")
    return fits[law]


def read_given(given: list[str] | None, unique_tokens: str | None, law: str) -> dict[str, float]:
    """Read what is held besides N and D.

    Raises:
        UsageError: Not NAME=NUMBER, said twice, or a law that knows no repetition.
    """
    held = read_pairs("--given", given, "U=25e9")
    if unique_tokens is None:
        return held
    from scalekit import registry

    if "U" not in registry.find("laws", law).inputs:
        raise UsageError(
            f"--unique-tokens: {law} takes every token as new; fit repeat_exp or repeat_penalty "
            "to runs that repeat their data"
        )
    if "U" in held:
        raise UsageError("--unique-tokens: --given U says it too; keep one")
    return {**held, "U": read_positive("--unique-tokens", unique_tokens)}


def answer(one: Ask, asked: Asked) -> Answers:
    """Answer the question.

    Raises:
        UsageError: The question does not fit the law.
    """
    from scalekit.analysis.allocation import losses, optima
    from scalekit.analysis.decisions import add_misses, budgets_for, runs

    _check_fits(one.law, one.fit.law, asked)
    if asked.inference_tokens is not None:
        return Answers("served", [_served(one, asked)])
    if asked.loss:
        return Answers("price", budgets_for(one, asked.loss))
    if asked.options != ["flops"]:
        return Answers("run", runs(one, _sizes(one, asked)))
    if "N" in one.law.inputs:
        entries = optima(one, asked.flops)
        add_misses(one, entries)
        return Answers("optimum", entries)
    import numpy as np

    return Answers("run", losses(one, {"C": np.array(asked.flops)}))


def _check_fits(law: Law, name: str, asked: Asked) -> None:
    """Refuse an option that says nothing to the law, and a run that it leaves half open."""
    symbols = {"params": "N", "tokens": "D", "flops": "C"}
    takes = set(law.inputs) | ({"C"} if {"N", "D"} <= set(law.inputs) else set())
    inputs = ", ".join(law.inputs)
    for option in asked.options:
        if option in symbols and symbols[option] not in takes:
            raise UsageError(f"--{option}: {name} is a law of {inputs}; leave it out")
    both = {"params", "tokens"}
    if len(asked.options) == 1 and asked.options[0] in both and asked.inference_tokens is None:
        other = next(iter(both - set(asked.options)))
        if symbols[other] in takes:
            raise UsageError(f"--{asked.options[0]}: says half of a run; add --{other} or --flops")


def _sizes(one: Ask, asked: Asked) -> Mapping[str, Any]:
    """Complete params and tokens from a budget, and lists of one to the others' length."""
    import numpy as np

    most = max(len(getattr(asked, name)) for name in asked.options)
    known = {name: np.resize(getattr(asked, name), most) for name in asked.options}
    cost = one.one.cost
    if "flops" in known and "params" in known:
        known["tokens"] = known["flops"] / (cost.factor * known["params"] ** cost.power)
    elif "flops" in known:
        per_token = known["flops"] / (cost.factor * known["tokens"])
        known["params"] = per_token ** (1.0 / cost.power)
    return {symbol: known[w] for symbol, w in (("N", "params"), ("D", "tokens")) if w in known}


def _served(one: Ask, asked: Asked) -> Entry:
    from scalekit.analysis import serving

    if asked.flops:
        reference = serving.at_budget(one.one, asked.flops[0])
    elif asked.loss:
        from scalekit.analysis.decisions import budgets_for

        budgets_for(one, asked.loss)  # refuses a loss that nothing reaches
        reference = serving.at_loss(one.one, asked.loss[0])
    elif asked.tokens:
        reference = serving.at_run(asked.params[0], asked.tokens[0])
    else:
        reference = serving.at_size(one.one, asked.params[0])
    assert asked.inference_tokens is not None
    return serving.served(one, reference, asked.inference_tokens)
