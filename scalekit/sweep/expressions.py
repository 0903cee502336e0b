"""Expressions of `derive`, `where` and `when`: a whitelisted syntax tree, compiled to closures.

Nothing of a user's text is ever executed: Python's parser gives the tree, every node that is not
listed here is refused with its position, and types are checked before any run is evaluated.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scalekit.config.nodes import Text
from scalekit.config.problems import Place, Problem
from scalekit.errors import did_you_mean
from scalekit.quantities import SUFFIXES
from scalekit.sweep.functions import ARITHMETIC, COMPARISONS, find_function, function_names
from scalekit.sweep.keys import Kind, UnknownKeyError

MAX_LENGTH = 1000
MAX_DEPTH = 50

Run = Callable[[Mapping[str, Any]], Any]
Lookup = Callable[[str], tuple[str, Kind]]


class ExpressionError(Exception):
    """An expression that cannot be read, or not be evaluated for a run."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, eq=False)
class Expression:
    """A compiled expression.

    Attributes:
        text: As the user wrote it.
        kind: What it gives.
        names: What it reads of a run, by the names that its lookup gave.
        run: The closure; use `value`, which turns arithmetic's refusals into problems.
    """

    text: str
    place: Place
    kind: Kind
    names: frozenset[str]
    run: Run

    def value(self, variables: Mapping[str, Any]) -> Any:
        """Evaluate for one run.

        Raises:
            ExpressionError: A division by zero, an overflow, a value that is not set.
        """
        try:
            result = self.run(variables)
            if self.kind == "number" and not math.isfinite(result):
                raise OverflowError("the result is not finite")
        except (ArithmeticError, ValueError, TypeError) as error:
            unset = [name for name in sorted(self.names) if variables[name] is None]
            reason = f"{unset[0]} is not set" if unset else str(error)
            raise ExpressionError(
                Problem(
                    self.place, f"{self.text!r} has no value, {reason}", "guard it or change it"
                )
            ) from error
        return result


# 70M is not Python: it becomes a name of the same length, so that columns stay true.
_SUFFIXED = re.compile(
    rf"(?<![\w.])((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)([{''.join(SUFFIXES)}])(?!\w)"
)
_KIND_WORDS = {"number": "a number", "text": "a text", "truth": "a condition"}


def compile_expression(node: Text, lookup: Lookup, wanted: tuple[Kind, ...]) -> Expression:
    """Compile the text of a node.

    Args:
        node: The text, with its place.
        lookup: From a word to the name under which a run holds it, and its kind.
        wanted: The kinds that may come out.

    Raises:
        ExpressionError: Not an expression of the allowed kind.
    """
    compiler = _Compiler(node, lookup)
    run, kind = compiler.compile()
    if kind not in wanted:
        expected = " or ".join(_KIND_WORDS[k] for k in wanted)
        raise ExpressionError(
            Problem(
                node.place,
                f"must be {expected}, found {node.describe()}, which is {_KIND_WORDS[kind]}",
                "compare it with something" if wanted == ("truth",) else "change it",
            )
        )
    return Expression(node.text, node.place, kind, frozenset(compiler.names), run)


class _Compiler:
    def __init__(self, node: Text, lookup: Lookup) -> None:
        self.node = node
        self.lookup = lookup
        self.names: set[str] = set()
        self.literals: dict[int, float] = {}
        self.start = 0

    def compile(self) -> tuple[Run, Kind]:
        text = self.node.text.replace("\n", " ").rstrip()
        self.start = len(text) - len(text.lstrip())
        text = text.lstrip()
        if len(text) > MAX_LENGTH:
            raise self.error(None, f"longer than {MAX_LENGTH} characters", "split it")
        if not text or not text.isascii():
            raise self.error(None, f"not an expression, found {self.node.describe()}", "write one")
        text = _SUFFIXED.sub(self._literal, text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(text, mode="eval")
            return self.visit(tree.body, 0)
        except SyntaxError as error:
            at = (error.offset or 1) - 1
            raise self.error(at, f"not an expression, {error.msg}", "mend it") from error
        except (ValueError, MemoryError, RecursionError) as error:
            raise self.error(
                None, "not an expression, it is nested too deeply", "split it"
            ) from error

    def _literal(self, match: re.Match[str]) -> str:
        value = float(match.group(1)) * 10.0 ** SUFFIXES[match.group(2)]
        whole = int(value) if value.is_integer() and value < 2**53 else value
        self.literals[match.start()] = whole
        return "_" * len(match.group())

    def error(self, column: int | None, what: str, todo: str) -> ExpressionError:
        place = self.node.place
        if column is not None and self.node.one_line:
            place = place.shifted(column + self.start + (0 if self.node.plain else 1))
        return ExpressionError(Problem(place, what, todo))

    def number(self, node: ast.expr, depth: int) -> Run:
        return self.typed(node, depth, "number")

    def typed(self, node: ast.expr, depth: int, wanted: Kind) -> Run:
        run, kind = self.visit(node, depth)
        if kind != wanted:
            found = self.written(node)
            raise self.error(
                node.col_offset,
                f"must be {_KIND_WORDS[wanted]}, found {found}, which is {_KIND_WORDS[kind]}",
                "change it",
            )
        return run

    def written(self, node: ast.expr) -> str:
        text = self.node.text.replace("\n", " ").strip()
        return repr(text[node.col_offset : node.end_col_offset])

    def visit(self, node: ast.expr, depth: int) -> tuple[Run, Kind]:
        if depth > MAX_DEPTH:
            raise self.error(None, "an expression nested too deeply", "split it")
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            allowed = "use numbers, keys, arithmetic, comparisons, and, or, not"
            raise self.error(node.col_offset, f"not allowed, found {self.written(node)}", allowed)
        return method(node, depth + 1)

    def _constant(self, node: ast.Constant, depth: int) -> tuple[Run, Kind]:
        value = node.value
        if isinstance(value, bool):
            return (lambda _: value), "truth"
        if isinstance(value, str):
            return (lambda _: value), "text"
        if isinstance(value, int | float) and abs(value) < 1e308:
            return (lambda _: value), "number"
        raise self.error(node.col_offset, f"not a number, found {self.written(node)}", "change it")

    def _name(self, node: ast.Name, depth: int) -> tuple[Run, Kind]:
        if node.col_offset in self.literals:
            value = self.literals[node.col_offset]
            return (lambda _: value), "number"
        if node.id in ("true", "false"):
            truth = node.id == "true"
            return (lambda _: truth), "truth"
        return self._variable(node.id, node)

    def _attribute(self, node: ast.Attribute, depth: int) -> tuple[Run, Kind]:
        parts: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name) or len(parts) > MAX_DEPTH:
            raise self.error(
                node.col_offset, f"not a key, found {self.written(node)}", "write a dotted key"
            )
        return self._variable(".".join([inner.id, *reversed(parts)]), node)

    def _variable(self, word: str, node: ast.expr) -> tuple[Run, Kind]:
        try:
            name, kind = self.lookup(word)
        except UnknownKeyError as error:
            function = find_function(word)
            if function is not None:
                error.todo = f"write {word}({', '.join(function.inputs) or '...'})"
            raise self.error(node.col_offset, error.what, error.todo) from error
        self.names.add(name)
        return operator.itemgetter(name), kind

    def _unaryop(self, node: ast.UnaryOp, depth: int) -> tuple[Run, Kind]:
        if isinstance(node.op, ast.Not):
            truth = self.typed(node.operand, depth, "truth")
            return (lambda v: not truth(v)), "truth"
        if isinstance(node.op, ast.Invert):
            raise self.error(node.col_offset, "not allowed, found '~'", "use not")
        run = self.number(node.operand, depth)
        if isinstance(node.op, ast.UAdd):
            return run, "number"
        return (lambda v: -run(v)), "number"

    def _binop(self, node: ast.BinOp, depth: int) -> tuple[Run, Kind]:
        act = ARITHMETIC.get(type(node.op))
        if act is None:
            raise self.error(
                node.col_offset, f"not allowed, found {self.written(node)}", "use + - * / // % **"
            )
        left, right = self.number(node.left, depth), self.number(node.right, depth)
        return (lambda v: act(left(v), right(v))), "number"

    def _boolop(self, node: ast.BoolOp, depth: int) -> tuple[Run, Kind]:
        parts = [self.typed(value, depth, "truth") for value in node.values]
        if isinstance(node.op, ast.And):
            return (lambda v: all(part(v) for part in parts)), "truth"
        return (lambda v: any(part(v) for part in parts)), "truth"

    def _compare(self, node: ast.Compare, depth: int) -> tuple[Run, Kind]:
        terms = [self.visit(term, depth) for term in (node.left, *node.comparators)]
        steps = []
        for op, (left, kind), (right, other) in zip(node.ops, terms, terms[1:], strict=False):
            act = COMPARISONS.get(type(op))
            ordered = isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
            if act is None or kind != other or (ordered and kind != "number"):
                raise self.error(
                    node.col_offset,
                    f"cannot compare {_KIND_WORDS[kind]} with {_KIND_WORDS[other]} here, "
                    f"found {self.written(node)}",
                    "use < <= > >= between numbers, == or != between equals",
                )
            steps.append((act, left, right))
        if len(steps) == 1:
            act, left, right = steps[0]
            return (lambda v: act(left(v), right(v))), "truth"
        return (lambda v: all(a(x(v), y(v)) for a, x, y in steps)), "truth"

    def _call(self, node: ast.Call, depth: int) -> tuple[Run, Kind]:
        if not isinstance(node.func, ast.Name):
            what = f"not a function's name, found {self.written(node.func)}"
            raise self.error(node.col_offset, what, "call one by its name, like max(N, 1e6)")
        name = node.func.id
        function = find_function(name)
        if function is None:
            todo = did_you_mean(name, function_names())
            raise self.error(node.col_offset, f"unknown function {name!r}", todo)
        starred = any(isinstance(a, ast.Starred) for a in node.args)
        if node.keywords or starred:
            what = f"{name} takes arguments by their order alone, found {self.written(node)}"
            raise self.error(node.col_offset, what, "write them in order")
        refused = function.refuse(name, len(node.args))
        if refused:
            raise self.error(node.col_offset, *refused)
        act = function.act
        parts = [self.number(argument, depth) for argument in node.args]
        if len(parts) == 1:
            (one,) = parts
            return (lambda v: act(one(v))), "number"
        return (lambda v: act(*[part(v) for part in parts])), "number"
