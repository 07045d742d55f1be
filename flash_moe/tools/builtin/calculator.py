"""``calculate``: numbers, + - * / // % **, parentheses and sqrt, and nothing else.

Python parses the expression, and this module evaluates its nodes; it never reaches ``eval``.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Annotated, TypeAlias

from flash_moe.errors import ToolError
from flash_moe.tools.definition import Tool

MAX_LENGTH = 500  # characters of an expression
MAX_BITS = 4096  # of a whole number: above 10^1232

Number: TypeAlias = "int | float"
# Signs that models write, to Python's.
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**"})  # noqa: RUF001
# Excludes names, and everything that makes Python's parser warn.
_ALLOWED = re.compile(r"[0-9.eE+*/%() -]*")
_OPERATORS: dict[type[ast.AST], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def evaluate(expression: str) -> Number:
    """Return the value of an arithmetic expression, exact for whole numbers.

    Numbers with a fraction are rounded to 15 digits, so that 0.1 + 0.2 is 0.3.

    Raises:
        ToolError: An invalid expression, a division by zero, or a number too large or not real.
    """
    text = " ".join(expression.translate(_SIGNS).split())
    if len(text) > MAX_LENGTH:
        raise _error(f"expected at most {MAX_LENGTH} characters, got {len(text)}")
    if not text or not _ALLOWED.fullmatch(text.replace("sqrt", "")):
        raise _error("not a valid expression", "Use numbers, + - * / // % **, ( ) and sqrt.")
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError):  # the last two: nested too deeply
        raise _error("not a valid expression") from None
    except ZeroDivisionError:
        raise _error("division by zero") from None
    except OverflowError:
        raise _error("the number is too large") from None
    if isinstance(value, float):
        value = float(f"{value:.15g}") if abs(value) < 1e300 else value
        if value.is_integer() and abs(value) < 1e15:
            value = int(value)
    return value


def _value(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return _checked(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            return _checked(_power(left, right))
        if type(node.op) in _OPERATORS:
            return _checked(_OPERATORS[type(node.op)](left, right))
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "sqrt"
        and len(node.args) == 1
        and not node.keywords
    ):
        return _root(_value(node.args[0]))
    raise _error("not a valid expression")


def _power(base: Number, exponent: Number) -> Number:
    if (  # checked before a whole number is computed
        isinstance(base, int)
        and isinstance(exponent, int)
        and exponent > 0
        and (base.bit_length() - 1) * exponent > MAX_BITS
    ):
        raise OverflowError
    value = base**exponent
    if isinstance(value, complex):
        raise _error("the result is not a real number")
    return value


def _root(value: Number) -> Number:
    if value < 0:
        raise _error("square root of a negative number")
    if isinstance(value, int) and math.isqrt(value) ** 2 == value:
        return math.isqrt(value)
    return math.sqrt(value)


def _checked(value: Number) -> Number:
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise OverflowError
    return value


def _error(problem: str, hint: str = "") -> ToolError:
    return ToolError("calculate", problem, hint)


def _calculate(
    expression: Annotated[str, "For example 3 * (4 + 5)"],
) -> dict[str, str | int | float]:
    """Value of an arithmetic expression."""
    return {"expression": expression, "result": evaluate(expression)}


calculate = Tool(_calculate, name="calculate")
