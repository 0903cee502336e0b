"""From a sweep file to a SweepSpec: every mistake of the file at once, each where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalekit import registry
from scalekit.config.nodes import Items, Node, Table, Text
from scalekit.config.problems import Place, Problems
from scalekit.config.validate import node_at, read_model
from scalekit.errors import did_you_mean, nearest
from scalekit.sweep.axes import flatten, read_cases, read_grid, read_option, read_zip
from scalekit.sweep.expressions import Expression, ExpressionError, Lookup, compile_expression
from scalekit.sweep.files import read_merged, set_keys
from scalekit.sweep.keys import (
    HORIZON,
    KEYS,
    QUANTITIES,
    SECTIONS,
    Kind,
    UnknownKeyError,
    resolve_key,
)
from scalekit.sweep.ladder import read_ladder
from scalekit.sweep.sections import ResourceRule, SweepFile
from scalekit.sweep.sweep_spec import (
    BUDGET,
    Axis,
    Isoflop,
    Option,
    Resources,
    SweepSpec,
    Where,
)

BEFORE = "before "
"""Prefix of the name that a derived key's own expression reads: its value before."""

ASKED = "asked "
"""Prefix of D and C before they are rounded to whole steps, which is what `derive` reads."""

_READS: dict[str, str] = dict(zip(HORIZON, ("D", "steps", "C", "D / N"), strict=True))


def load_sweep(path: Path, sets: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep file with everything it extends, its profile, and KEY=VALUE changes.

    Raises:
        InputError: The file is refused, with every mistake and its position.
        UsageError: A change that is not KEY=VALUE.
    """
    problems = Problems()
    table, profile = read_merged(path, sets, problems)
    place = table.place
    file = read_model(_without_settings(table, problems), SweepFile, problems)
    sections = _Sections(table, problems)
    base = sections.option("base")
    grid = read_grid(sections.node("grid"), problems)
    zipped = read_zip(sections.node("zip"), problems)
    cases = read_cases(sections.node("cases"), problems)
    isoflop = sections.isoflop(file)
    ladder = read_ladder(sections.node("ladder"), problems)
    derive = sections.derive()
    where = sections.where(file)
    resources = sections.resources(file)
    axes = {
        "grid": grid,
        "zip": [zipped] if zipped else [],
        "isoflop.sizes": [isoflop.sizes] if isoflop else [],
        "ladder": [ladder] if ladder else [],
    }
    _refuse_conflicts(axes, derive, base, set_keys(table), problems)
    kind = node_at(table, ("executor", "kind"))
    known = registry.names("executors")
    if isinstance(kind, Text) and not kind.is_null and kind.text not in known:
        problems.add(kind.place, f"unknown executor {kind.text!r}", did_you_mean(kind.text, known))
    problems.raise_if_any()
    assert file is not None
    return SweepSpec(
        path=path,
        place=place,
        name=file.name,
        description=file.description,
        count=file.count,
        base=base,
        grid=grid,
        zip=zipped,
        cases=cases,
        isoflop=isoflop,
        derive=derive,
        where=where,
        resources=resources,
        time=file.time,
        executor=file.executor,
        profile=profile,
        ladder=ladder,
    )


def lookup(word: str) -> tuple[str, Kind]:
    """Find what a word in `where` and `when` reads of a finished run."""
    if word in QUANTITIES:
        return word, "number"
    try:
        name = resolve_key(word)
    except UnknownKeyError as error:
        close = nearest(word, QUANTITIES)
        if close is not None:
            error.todo = f"did you mean {close!r}?"
        elif error.todo.startswith("see "):
            error.todo = f"name a key, or one of {', '.join(QUANTITIES)}"
        raise
    return _READS.get(name, name), KEYS[name].kind


def _lookup_for(target: str) -> Lookup:
    """Return what words mean in the expression that derives `target`."""

    def find(word: str) -> tuple[str, Kind]:
        name, kind = lookup(word)
        if word not in QUANTITIES and resolve_key(word) == target:
            return BEFORE + target, kind
        return (ASKED + name if name in ("D", "C", "D / N") else name), kind

    return find


def _without_settings(table: Table, problems: Problems) -> Table:
    """Say of settings of a run that stand beside `base` where they belong; return the rest."""
    rest = Table(table.place)
    for word, node in table.entries.items():
        try:
            known = word in SweepFile.model_fields
            name = "" if known else word if word in SECTIONS else resolve_key(word)
        except UnknownKeyError:
            name = ""
        if name:
            what = f"{word!r} stands outside base, where the settings of runs are"
            problems.add(table.keys[word], what, f"write base: {{{name}: ...}}")
        else:
            rest.entries[word], rest.keys[word] = node, table.keys[word]
    return rest


class _Sections:
    """Reads the sections that hold keys of runs and expressions."""

    def __init__(self, table: Table, problems: Problems) -> None:
        self.table = table
        self.problems = problems

    def node(self, name: str) -> Node:
        return self.table.entries.get(name) or Text(self.table.place, "")

    def option(self, name: str) -> Option:
        return read_option(self.node(name), self.problems)

    def isoflop(self, file: SweepFile | None) -> Isoflop | None:
        node = self.node("isoflop")
        if not isinstance(node, Table) or "sizes" not in node.entries:
            return None
        before = len(self.problems)
        sizes = read_zip(node.entries["sizes"], self.problems)
        if sizes is None and len(self.problems) == before:
            self.problems.add(node.keys["sizes"], "no sizes", "write sizes: {n_layers: [2, 4]}")
        if file is None or file.isoflop is None or sizes is None:
            return None
        budgets = node.entries["budgets"]
        places = [item.place for item in budgets.items] if isinstance(budgets, Items) else []
        options = [
            Option({BUDGET: value}, {BUDGET: place})
            for value, place in zip(file.isoflop.budgets, places, strict=True)
        ]
        return Isoflop(Axis((BUDGET,), tuple(options)), sizes, file.isoflop.tolerance)

    def derive(self) -> dict[str, Expression]:
        flat = flatten(self.node("derive"), self.problems)
        found = {}
        for name, node in flat.entries.items():
            if isinstance(node, Text) and node.is_null:
                continue
            expression = self.compile(node, _lookup_for(name), (KEYS[name].kind,))
            if expression is not None:
                found[name] = expression
        return found

    def where(self, file: SweepFile | None) -> tuple[Where, ...]:
        keeps = self.compiled("where", "keep")
        rules = (file.where if file else None) or []
        pairs = zip(keeps, rules, strict=False)
        return tuple(Where(keep, rule.because) for keep, rule in pairs if keep is not None)

    def resources(self, file: SweepFile | None) -> tuple[Resources, ...]:
        whens = self.compiled("resources", "when")
        rules = (file.resources if file else None) or []
        pairs = zip(whens, rules, strict=False)
        return tuple(Resources(when, _needs(rule)) for when, rule in pairs)

    def compiled(self, section: str, key: str) -> list[Expression | None]:
        """Compile one key of every rule of a section, even where the rest of the file is wrong."""
        rules = self.node(section)
        found = []
        for rule in rules.items if isinstance(rules, Items) else []:
            node = rule.entries.get(key) if isinstance(rule, Table) else None
            given = isinstance(node, Text) and not node.is_null
            found.append(self.compile(node, lookup, ("truth",)) if given and node else None)
        return found

    def compile(self, node: Node, find: Lookup, wanted: tuple[Kind, ...]) -> Expression | None:
        if not isinstance(node, Text):
            what = f"must be an expression, found {node.describe()}"
            self.problems.add(node.place, what, "write it as text")
            return None
        try:
            return compile_expression(node, find, wanted)
        except ExpressionError as error:
            self.problems.append(error.problem)
            return None


def _needs(rule: ResourceRule) -> dict[str, Any]:
    """Return what a rule asks for; what few rules ask for stands there only where it is asked."""
    spread = {"processes", "shard", "recompute", "micro_batch_tokens"}
    rare = {"stack", "compile", "cuda_graph", *spread}
    asked = rule.model_dump(include=rare, exclude_defaults=True)
    return {**rule.model_dump(exclude={"when", *rare}), **asked}


def _refuse_conflicts(
    axes: Mapping[str, Sequence[Axis]],
    derive: dict[str, Expression],
    base: Option,
    set_by_hand: list[str],
    problems: Problems,
) -> None:
    """Refuse settings that would silently win over, or lose against, a swept key."""
    swept: dict[str, Place] = {}
    section_of: dict[str, str] = {}
    for section, axis in ((name, axis) for name, members in axes.items() for axis in members):
        for key in axis.keys if axis.options else ():
            place = axis.options[0].places[key]
            if key in swept:
                what = f"{key!r} is swept twice, also on line {swept[key].line}"
                problems.add(place, what, "keep one")
            swept.setdefault(key, place)
            section_of.setdefault(key, section)
    for key, expression in derive.items():
        if key in swept and BEFORE + key not in expression.names:
            what = f"{key!r} is swept on line {swept[key].line} and derived here"
            problems.add(expression.place, what, "use it in its own expression, or keep one")
    for key in set_by_hand:
        if key in swept:
            what = f"{key!r} is swept, so this would change nothing"
            problems.add(base.places[key], what, f"write --set '{section_of[key]}.{key}=[...]'")
        elif key in derive and BEFORE + key not in derive[key].names:
            what = f"{key!r} is derived, so this would change nothing"
            problems.add(base.places[key], what, f"write --set derive.{key}=...")
