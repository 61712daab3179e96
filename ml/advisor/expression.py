"""The expressions of rule files: conditions and values computed from named quantities.

An expression has Python's syntax, but only numbers, text, lists, names, arithmetic, comparisons, `and`, `or`, `not`,
`a if condition else b`, and the functions of `FUNCTIONS`. It cannot call anything else, read attributes of objects, or loop, so
a rule file from somebody else is safe to load.

A quantity that is not known (None) makes an expression unknown, unless the result does not depend on it: `False and x` is
false whatever x is. Rules whose condition is unknown do not apply.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml.catalog.document import shown

MOST = 1e18  # the largest number that an expression can have


class ExpressionError(ValueError):
    """An expression that is not valid, or that has no value for the given quantities."""


class _Unknown(Exception):
    """The value depends on a quantity that is not known."""


def _power_of_two(x: float) -> int:
    """Return the largest power of two that is at most x."""
    return 1 << max(0, math.floor(math.log2(max(x, 1))))


def _clip(x: float, low: float, high: float) -> float:
    return max(low, min(high, x))


def _multiple(x: float, of: float) -> float:
    """Return the multiple of `of` that is nearest to x, and at least `of`."""
    return max(1, round(x / of)) * of


def _at_least(shapes: Sequence[Sequence[int]], width: int) -> list[Sequence[int]]:
    """Return the shapes whose last layer has at least `width` units."""
    return [shape for shape in shapes if not shape or shape[-1] >= width]


def _item(items: Sequence[Any], index: float) -> Any:
    """Return an item by its index from 0; indices beyond the ends mean the first or the last item."""
    if not items:
        raise ExpressionError("item: the list is empty")
    return items[int(_clip(index, 0, len(items) - 1))]


def _smaller(items: Sequence[Any], than: Any) -> Any:
    """Return the item after `than` in a list from large to small; `than` itself if it is the last, or is not in the list."""
    own = [list(item) if isinstance(item, list | tuple) else item for item in items]
    than = list(than) if isinstance(than, list | tuple) else than
    return own[min(own.index(than) + 1, len(own) - 1)] if than in own else than


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "at_least": _at_least,
    "ceil": math.ceil,
    "clip": _clip,
    "exp": math.exp,
    "floor": math.floor,
    "item": _item,
    "len": len,
    "log2": math.log2,
    "max": max,
    "min": min,
    "multiple": _multiple,
    "power_of_two": _power_of_two,
    "round": round,
    "smaller": _smaller,
    "sqrt": math.sqrt,
    "sum": sum,
}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


class Expression:
    """A parsed expression.

    Args:
        text: The expression.

    Attributes:
        names: The names of the quantities in it; a recipe key such as `recipe.batch_size` is one name.

    Raises:
        ExpressionError: The text is not an expression of this language.

    Example:
        >>> rule = Expression("power_of_two(clip(rows / 1000, 256, 4096)) if rows > 1e4 else recipe.batch_size")
        >>> sorted(rule.names)
        ['recipe.batch_size', 'rows']
        >>> rule.value({"rows": 1_200_000})
        1024
        >>> Expression("ids > 100").value({"ids": None}) is None
        True
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ExpressionError(f"{text!r} is not an expression ({error})") from error
        self.names: set[str] = set()
        self._check(self._tree)

    def value(self, quantities: Mapping[str, Any]) -> Any:
        """Evaluate the expression.

        Args:
            quantities: Values by name. None, or an absent name, is a quantity that is not known.

        Returns:
            The value; None if it depends on a quantity that is not known.

        Raises:
            ExpressionError: The operations are not defined for the values, as in a division by zero.
        """
        try:
            return self._value(self._tree, quantities)
        except _Unknown:
            return None
        except (ArithmeticError, TypeError, ValueError, LookupError) as error:
            raise ExpressionError(f"{self.text!r} has no value here: {error}") from error

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.Attribute):
            self.names.add(_dotted(node))
            return
        if isinstance(node, ast.Name):
            self.names.add(node.id)
            return
        if isinstance(node, ast.Constant):
            if not isinstance(node.value, bool | int | float | str):
                raise ExpressionError(f"{self.text!r}: {node.value!r} is not allowed")
            return
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
                raise ExpressionError(f"{self.text!r}: {ast.unparse(node)!r} is not a call of one of {sorted(FUNCTIONS)}")
            children: list[ast.AST] = list(node.args)
        elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            children = [node.left, node.right]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            children = [node.operand]
        elif isinstance(node, ast.BoolOp):
            children = list(node.values)
        elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
            children = [node.left, *node.comparators]
        elif isinstance(node, ast.IfExp):
            children = [node.test, node.body, node.orelse]
        elif isinstance(node, ast.List | ast.Tuple):
            children = list(node.elts)
        else:
            raise ExpressionError(f"{self.text!r}: {ast.unparse(node)!r} is not allowed in an expression")
        for child in children:
            self._check(child)

    def _value(self, node: ast.AST, quantities: Mapping[str, Any]) -> Any:
        def of(child: ast.AST) -> Any:
            return self._value(child, quantities)

        match node:
            case ast.Constant(value=value):
                return _bounded(value)
            case ast.Name() | ast.Attribute():
                value = quantities.get(_dotted(node))
                if value is None:
                    raise _Unknown
                return value
            case ast.Call(func=ast.Name(id=name), args=args):
                return _bounded(FUNCTIONS[name](*map(of, args)))
            case ast.BinOp(left=left, op=op, right=right):
                a, b = of(left), of(right)
                if isinstance(op, ast.Pow) and max(abs(a), abs(b)) > 1e6:
                    raise OverflowError("a power of large numbers")
                if not all(isinstance(side, int | float) for side in (a, b)):
                    raise TypeError(f"{ast.unparse(node)} is not a sum of numbers")
                return _bounded(_BINARY[type(op)](a, b))
            case ast.UnaryOp(op=op, operand=operand):
                return not of(operand) if isinstance(op, ast.Not) else -of(operand)
            case ast.BoolOp(op=op, values=values):
                return self._joined(isinstance(op, ast.And), values, quantities)
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [of(side) for side in (left, *others)]
                pairs = zip(ops, sides, sides[1:], strict=False)
                return all(_COMPARE[type(op)](a, b) for op, a, b in pairs)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return of(body) if of(test) else of(orelse)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [of(element) for element in elements]
        raise AssertionError(ast.dump(node))  # refused by _check

    def _joined(self, every: bool, values: Sequence[ast.AST], quantities: Mapping[str, Any]) -> bool:
        """Evaluate `and` or `or`. An unknown part matters only if the known parts do not decide."""
        unknown = False
        for part in values:
            try:
                if bool(self._value(part, quantities)) != every:
                    return not every
            except _Unknown:
                unknown = True
        if unknown:
            raise _Unknown
        return every


def _dotted(node: ast.AST) -> str:
    """Return `a.b.c` of an attribute of a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ExpressionError(f"{ast.unparse(node)!r} is not allowed in an expression")


def _bounded(value: Any) -> Any:
    if isinstance(value, complex) or (isinstance(value, int | float) and not abs(value) <= MOST):
        raise OverflowError(f"{shown(value)} is not a number of at most {MOST:g}")
    return value
