"""Arithmetic over a table's columns: what `--map params=wte+transformer` computes.

An expression is Python's syntax read into its tree; only the nodes listed here are evaluated, over
numpy arrays. Nothing is ever called but the functions of `FUNCTIONS`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from scalekit.errors import InputError, did_you_mean
from scalekit.results.cells import shown

if TYPE_CHECKING:
    import numpy as np

LONGEST = 2000
"""Characters of an expression; longer ones are refused before Python parses them."""

FUNCTIONS = {
    "abs": "abs",
    "ceil": "ceil",
    "exp": "exp",
    "floor": "floor",
    "log": "log",
    "log10": "log10",
    "log2": "log2",
    "max": "maximum",
    "min": "minimum",
    "round": "round",
    "sqrt": "sqrt",
}
"""Functions an expression may call, and numpy's name for each."""

_BINARY = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "true_divide",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "mod",
    ast.Pow: "power",
}
_COMPARE = {
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
}
_QUOTED = re.compile(r"\{([^{}]+)\}")


def evaluate(expression: str, columns: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """Compute an expression over columns of shape (n,).

    A column whose name is not an identifier is written in braces, `{val/loss} * log(2)`; a dotted
    name is written as it is. An expression that is exactly a column's name is that column.

    `where` is what an error names, such as `runs.csv: --map loss`.

    Returns:
        An array (n,): numbers, text, or booleans where the expression compares.

    Raises:
        InputError: An unknown column, or syntax that is not arithmetic.
    """
    if expression.strip() in columns:
        return columns[expression.strip()]
    import numpy as np

    reader = _Reader(columns, f"{where}={expression!r}")
    tree = reader.parse(expression)
    rows = len(next(iter(columns.values()))) if columns else 0
    # Rows that cannot be computed become NaN; whoever needs the column sees and says so.
    with np.errstate(all="ignore"):
        value = reader.value(tree)
    if np.ndim(value):
        return value
    # A column of words is one of objects, whoever made it.
    return np.full(rows, value, dtype=object if isinstance(value, str) else None)


def uses(
    expression: str, columns: Mapping[str, np.ndarray], where: str
) -> tuple[list[str], set[str]]:
    """Say what an expression reads and does: its columns, and its functions and operations.

    >>> uses("{val/loss} / log(2)", {"val/loss": None}, "t")[1] == {"Div", "log"}
    True

    Raises:
        InputError: Not an expression.
    """
    reader = _Reader(columns, f"{where}={expression!r}")
    nodes = list(ast.walk(reader.parse(expression)))
    words = [ast.unparse(n) for n in nodes if isinstance(n, ast.Name | ast.Attribute)]
    names = [reader.quoted.get(word, word) for word in words]
    does = {name for name in names if name in FUNCTIONS}
    does |= {type(node.op).__name__ for node in nodes if isinstance(node, ast.BinOp)}
    return [name for name in dict.fromkeys(names) if name in columns], does


class _Reader:
    """Evaluates one expression's tree; remembers the names that stood in braces."""

    def __init__(self, columns: Mapping[str, np.ndarray], where: str) -> None:
        self.columns = columns
        self.where = where
        self.quoted: dict[str, str] = {}

    def parse(self, expression: str) -> ast.expr:
        if len(expression) > LONGEST:
            raise InputError(f"{self.where[:80]}...: too long; {LONGEST} characters are the most")

        def stand_in(found: re.Match[str]) -> str:
            word = f"_column_{len(self.quoted)}"
            self.quoted[word] = found[1]
            return word

        try:
            return ast.parse(_QUOTED.sub(stand_in, expression).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(
                f"{self.where}: not an expression over columns; write arithmetic such as a + b, "
                "and a column with odd characters in braces"
            ) from error

    def value(self, node: ast.expr) -> Any:
        import numpy as np

        try:
            return self._value(node)
        except RecursionError as error:
            raise InputError(f"{self.where}: nested too deeply; split it") from error
        except (TypeError, np.exceptions.DTypePromotionError) as error:
            raise InputError(
                f"{self.where}: mixes text and numbers{self._text_in(node)}; compute with numeric "
                "columns only"
            ) from error

    def _text_in(self, node: ast.expr) -> str:
        """Name the first column of an expression that holds words, and a cell of it."""
        from scalekit.importers._cells import as_column

        words = (ast.unparse(n) for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute))
        names = (self.quoted.get(word, word) for word in words)
        for name in names:
            cells = self.columns[name].tolist() if name in self.columns else []
            is_word = (row for row, c in enumerate(cells) if as_column([c]).dtype == object)
            row = next(is_word, None)
            if row is not None:
                return f", {name} is {shown(cells[row])} in row {row + 1}"
        return ""

    def _value(self, node: ast.expr) -> Any:
        known: dict[type[ast.expr], Callable[[Any], Any]] = {
            ast.Constant: self._constant,
            ast.Name: self._column,
            ast.Attribute: self._column,
            ast.BinOp: lambda n: self._apply(_BINARY, n.op, n.left, n.right),
            ast.UnaryOp: self._unary,
            ast.BoolOp: self._both_or_either,
            ast.Compare: self._compare,
            ast.Call: self._call,
        }
        if type(node) not in known:
            raise self._refused(node)
        return known[type(node)](node)

    def _constant(self, node: ast.Constant) -> Any:
        match node.value:
            case bool() | str():
                return node.value
            case int() | float():
                try:
                    return float(node.value)  # so that 9**9**9 is infinite instead of endless
                except OverflowError:
                    return float("inf")
        raise self._refused(node)

    def _unary(self, node: ast.UnaryOp) -> Any:
        value = self._value(node.operand)
        match node.op:
            case ast.USub():
                return self._numpy("negative")(value)
            case ast.UAdd():
                return self._numpy("positive")(value)
            case ast.Not():
                return self._numpy("logical_not")(value)
        raise self._refused(node)

    def _both_or_either(self, node: ast.BoolOp) -> Any:
        name = "logical_and" if isinstance(node.op, ast.And) else "logical_or"
        return reduce(self._numpy(name), [self._value(item) for item in node.values])

    def _compare(self, node: ast.Compare) -> Any:
        sides = [node.left, *node.comparators]
        pairs = zip(node.ops, sides, sides[1:], strict=False)
        found = [self._apply(_COMPARE, op, left, right) for op, left, right in pairs]
        return reduce(self._numpy("logical_and"), found)

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS or node.keywords:
            raise InputError(
                f"{self.where}: calls {ast.unparse(node.func)!r}; {did_you_mean(name, FUNCTIONS)}"
            )
        function = self._numpy(FUNCTIONS[name])
        values = [self._value(item) for item in node.args]
        if name in ("min", "max") and len(values) > 1:
            return reduce(function, values)
        if len(values) != 1 or name in ("min", "max"):
            raise InputError(f"{self.where}: {name}() takes {_arity(name)}")
        return function(values[0])

    def _apply(self, names: Mapping[type, str], op: Any, left: ast.expr, right: ast.expr) -> Any:
        if type(op) not in names:
            raise self._refused(left)
        return self._numpy(names[type(op)])(self._value(left), self._value(right))

    def _column(self, node: ast.expr) -> Any:
        written = ast.unparse(node)
        name = self.quoted.get(written, written)
        if name not in self.columns:
            raise InputError(
                f"{self.where}: no column {name!r}; {did_you_mean(name, self.columns)}"
            )
        return self.columns[name]

    def _numpy(self, name: str) -> Callable[..., Any]:
        import numpy as np

        return getattr(np, name)

    def _refused(self, node: ast.expr) -> InputError:
        return InputError(
            f"{self.where}: {ast.unparse(node)!r} is not arithmetic over columns; "
            f"use + - * / ** and {', '.join(FUNCTIONS)}"
        )


def _arity(name: str) -> str:
    return "two values or more" if name in ("min", "max") else "one value"
