"""The sweep to run next: isoFLOP valleys around predicted optima, on a user's template."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekit.counting import FLOPS_KINDS, PARAMS_KINDS
from scalekit.errors import InputError
from scalekit.quantities import count_words, write_count, write_flops, write_ratio
from scalekit.results.store import SweepFolder

if TYPE_CHECKING:
    from scalekit.fit.result import FitResult
    from scalekit.sweep.around import Family, Shaped
    from scalekit.sweep.expand import Expansion
    from scalekit.sweep.spec import RunSpec
    from scalekit.sweep.sweep_spec import SweepSpec

Entry = Mapping[str, Any]

SIZES = 7
"""Sizes a budget: two more than a valley needs, for one that diverges and one off the edge."""

_KEEP = 1.5
"""Sizes this much beyond the reach of a budget's valley are still kept by it."""

_TOLERANCE = 0.01

BUILT_IN = """\
scalekit: 1
name: built-in
base:
  model: {{arch: gpt, head_dim: {head_dim}, context: {context}}}
  data: {{source: synthetic, synthetic: {{kind: graphwalk, symbols: 256}}}}
  train: {{schedule: wsd, decay_frac: 0.2, min_lr_frac: 0, warmup_frac: 0.05, seed: 0}}
zip:
  d_model: [64, 256, 768, 2048, 4096, 8192, 12288]
  n_layers: [2, 6, 12, 24, 32, 64, 96]
derive:
  train.batch_tokens: {context} * max(1, round(0.58 * D ** 0.571 / {context}))
  train.lr: clamp(1.79 * N ** -0.713 * D ** 0.307, 1e-5, 1e-2)
"""
"""Shapes between those of published models of 125M, 1.3B, 7B and 175B params, and rates and
batches of Li et al. 2025, arXiv:2503.04715, whose smallest model has 60M; below, the rate is
clamped. Small widths have one head."""


@dataclass(frozen=True)
class Template:
    """A sweep whose base the next one shares, and where it came from."""

    spec: SweepSpec
    source: str


def next_sweep(fit: FitResult, where: Path, entries: Sequence[Entry], template: Path | None) -> str:
    """Write a sweep file around the optima of `entries`, ready to be run.

    Args:
        fit: What predicted them.
        where: The fit's file.
        entries: Optima: flops, params, tokens.
        template: A sweep whose base is taken; the fit's own sweep, or a built-in one, unless given.

    Raises:
        InputError: The template cannot be read, or cannot train runs of these sizes and lengths.
    """
    from scalekit.sweep.around import family_of, shapes_near

    chosen, counted = _counted(_find(fit, where, entries, template), fit)
    family = family_of(chosen.spec)
    shapes = shapes_near(chosen.spec, family, _sizes(entries))
    spec = _laid_out(chosen.spec, fit, where, entries, shapes)
    runs = _expanded(spec, chosen.source.partition(";")[0], entries)
    text = spec.resolved_yaml().split("\n", 1)[1]
    notes = [*_chose(fit, chosen, family, counted), *_valleys(entries, runs.runs)]
    return "".join(f"# {note}\n" for note in notes) + text.rstrip("\n")


def _find(fit: FitResult, where: Path, entries: Sequence[Entry], given: Path | None) -> Template:
    """Read the template: the one given, the sweep of the fit's own data, or the built-in."""
    from scalekit.sweep.load import load_sweep

    if given is not None:
        return Template(load_sweep(given), f"the template {given}")
    for path in _own_sweeps(fit, where):
        return Template(load_sweep(path), f"the fit's own sweep {path}")
    largest = max(float(e["params"]) for e in entries)
    context = 256 if largest < 1e7 else 1024 if largest < 1e9 else 2048
    head_dim = 8 if largest < 1e5 else 16 if largest < 1e6 else 64
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "built-in.yaml"
        path.write_text(BUILT_IN.format(context=context, head_dim=head_dim), encoding="utf-8")
        spec = load_sweep(path)
    words = "the built-in gpt on synthetic data; with your own vocabulary its sizes move"
    return Template(replace(spec, path=Path("the built-in template")), words)


def _own_sweeps(fit: FitResult, where: Path) -> list[Path]:
    """List the sweep files beside the fit's data, as named from here or from the fit's folder."""
    named = str(fit.data.get("path", ""))
    if not named or ", " in named:
        return []
    places = [Path(named), where.parent / named]
    # data.csv of a sweep's own folder, and of the analysis inside it.
    folders = [folder for p in places for folder in (p, p.parent, p.parent.parent)]
    found = [SweepFolder(f) for f in folders if SweepFolder(f).plan_file.is_file()]
    return [folder.sweep_file for folder in found if folder.sweep_file.is_file()][:1]


def _counted(template: Template, fit: FitResult) -> tuple[Template, str]:
    """Give the template the fit's way of counting, without which its N would be another's."""
    spec = template.spec
    kinds = {name: str(fit.data.get(f"{name}_kind", "unstated")) for name in ("params", "flops")}
    update: dict[str, str] = {}
    if kinds["params"] in PARAMS_KINDS:
        update["params"] = kinds["params"]
    if kinds["flops"] in FLOPS_KINDS:
        update["flops"] = kinds["flops"]
    elif fit.cost is not None and fit.cost.worst_miss == 0.0 and fit.cost.power == 1.0:
        # Six FLOPs a token and parameter, of whichever parameters N counts.
        update["flops"] = f"6N_{update.get('params', spec.count.params)}"
    count = spec.count.model_copy(update=update)
    said = [f"params {count.params}", f"FLOPs {count.flops}"]
    unsure = [f"{name} as {kind}" for name, kind in kinds.items() if name not in update]
    words = f"counted: {', '.join(said)}, as in the fit"
    if unsure:
        words += f", which states {' and '.join(unsure)}: check that they are what you mean"
    return replace(template, spec=replace(spec, count=count)), words


def _sizes(entries: Sequence[Entry]) -> list[float]:
    """Spread sizes evenly in log over all valleys, as finely as one valley asks."""
    from scalekit.sweep.design import REACH

    low = math.log(min(float(e["params"]) for e in entries) / REACH)
    high = math.log(max(float(e["params"]) for e in entries) * REACH)
    steps = max(SIZES - 1, round((high - low) / (2 * math.log(REACH) / (SIZES - 1))))
    return [math.exp(low + (high - low) * k / steps) for k in range(steps + 1)]


def _laid_out(
    spec: SweepSpec, fit: FitResult, where: Path, entries: Sequence[Entry], shapes: Sequence[Shaped]
) -> SweepSpec:
    """Put budgets and sizes on the template's base; its own runs are left out."""
    from scalekit.sweep.keys import HORIZON
    from scalekit.sweep.sweep_spec import BUDGET, Axis, Isoflop, Option

    place = spec.place
    budgets = sorted({float(e["flops"]) for e in entries})
    keys = tuple(shapes[0].values)
    ends = list(dict.fromkeys(write_flops(b) for b in (budgets[0], budgets[-1])))
    base = {k: v for k, v in spec.base.values.items() if k not in (*HORIZON, *keys)}
    return replace(
        spec,
        name=f"around-{'-'.join(ends)}",
        description=f"valleys around the optima that {fit.law} of {where.name} predicts",
        base=Option(base, spec.base.places),
        grid=(),
        zip=None,
        ladder=None,
        cases=(),
        isoflop=Isoflop(
            Axis((BUDGET,), tuple(Option({BUDGET: b}, {BUDGET: place}) for b in budgets)),
            Axis(keys, tuple(Option(s.values, dict.fromkeys(keys, place)) for s in shapes)),
            _TOLERANCE,
        ),
        derive={k: e for k, e in spec.derive.items() if k not in (*HORIZON, *keys)},
        where=_near_the_path(spec, entries) if len(budgets) > 1 else (),
    )


def _near_the_path(spec: SweepSpec, entries: Sequence[Entry]) -> tuple[Any, ...]:
    """Keep of every budget the sizes near its own optimum, by a power law through all of them."""
    from scalekit.config.nodes import Text
    from scalekit.sweep.design import REACH
    from scalekit.sweep.expressions import compile_expression
    from scalekit.sweep.load import lookup
    from scalekit.sweep.sweep_spec import Where

    path = sorted((math.log(e["flops"]), math.log(e["params"])) for e in entries)
    (x0, y0), (x1, y1) = path[0], path[-1]
    power = (y1 - y0) / (x1 - x0)
    most = REACH * _KEEP
    best = f"({math.exp(y0):.6g} * (C / {math.exp(x0):.6g}) ** {power:.6g})"
    text = f"{1 / most:.3g} <= N / {best} <= {most:.3g}"
    keep = compile_expression(Text(spec.place, text, plain=False), lookup, ("truth",))
    return (Where(keep, f"more than {most:g} times off the predicted optimum"),)


def _expanded(spec: SweepSpec, source: str, entries: Sequence[Entry]) -> Expansion:
    """Expand the sweep as `validate` would, and require every valley to frame its optimum."""
    from scalekit.sweep.expand import expand

    try:
        found = expand(spec)
    except InputError as error:
        # The built-in template was read from a temporary file, whose name tells a user nothing.
        first = str(error).splitlines()[0].replace(spec.place.source.name, str(spec.path))
        raise InputError(
            f"--yaml: {source} cannot train around this optimum, {first}; give another --template"
        ) from error
    for entry in entries:
        sizes = [_params(run) for run in found.runs if run.plan["budget"] == entry["flops"]]
        if not sizes or not min(sizes) < entry["params"] < max(sizes):
            had = f"{write_count(min(sizes))} to {write_count(max(sizes))}" if sizes else "none"
            lost = [d.reason for d in found.dropped if d.config.get("budget") == entry["flops"]]
            why = f", and {len(lost)} dropped, the first as {lost[0]}" if lost else ""
            raise InputError(
                f"--yaml: {source} has no sizes on both sides of {write_count(entry['params'])} "
                f"params, the optimum at {write_flops(entry['flops'])} FLOPs, found {had}{why}; "
                "give another --template or another budget"
            )
    return found


def _params(run: RunSpec) -> float:
    return float(run.plan["params"][run.plan["params_kind"]])


def _chose(fit: FitResult, template: Template, family: Family, counted: str) -> list[str]:
    spec = template.spec
    left = [
        *(f"grid {', '.join(axis.keys)}" for axis in spec.grid),
        *([f"zip {', '.join(spec.zip.keys)}"] if spec.zip else []),
        *(["ladder"] if spec.ladder else []),
        *(["cases"] if spec.cases else []),
        *(["where"] if spec.where else []),
    ]
    # What varies the size is not left out: the new sizes follow it.
    left = [word for word in left if not any(key in word for key in family.keys)]
    lines = [
        f"Written by scalekit predict --yaml: {fit.law}, {fit.status}, of "
        f"{count_words(fit.n_runs, 'run')}.",
        f"base: {template.source}",
        f"sizes: {family.words}",
        counted,
    ]
    return lines + ([f"left out of the template: {'; '.join(left)}"] if left else [])


def _valleys(entries: Sequence[Entry], runs: Sequence[RunSpec]) -> list[str]:
    """Say of every budget what was predicted and what will be trained."""
    lines = []
    for entry in entries:
        own = sorted((r for r in runs if r.plan["budget"] == entry["flops"]), key=_params)
        ends = entry["intervals"].get("params")
        sure = f" ({write_count(ends['low'])} to {write_count(ends['high'])})" if ends else ""
        lines.append(
            f"{write_flops(entry['flops'])} FLOPs: N* {write_count(entry['params'])}{sure} params, "
            f"{write_count(entry['tokens'])} tokens, loss {entry['loss']:.5g}; "
            f"{len(own)} sizes, {write_ratio(entry['extrapolation'])} times the largest fitted "
            "FLOPs"
        )
        for run in own:
            model, size = run.config["model"], _params(run)
            lines.append(
                f"  d_model {model['d_model']}, n_layers {model['n_layers']}: "
                f"{write_count(size)} params ({size / entry['params']:.2g} N*), "
                f"{write_count(run.plan['tokens'])} tokens, "
                f"{run.plan['tokens'] / size:.3g} a parameter"
            )
    return lines
