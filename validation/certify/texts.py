"""Texts such as "theta[0]*y[0]" evaluated on balls, nodes or pairs, with the transpose of their derivative.

Parsing and the whitelist are those of `refnode.fields.expressions`; nothing is evaluated as a program.
"""
import ast

from flint import arb

from refnode.fields.expressions import checked_tree, kind_of, operands_of

import dual_numbers as dual

OPERATIONS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}


class Texts:
    """Several expressions in t, y and theta as one list of instructions; equal subexpressions are made once."""

    def __init__(self, texts):
        self.instructions, self._known = [], {}
        self.outputs = [self._compiled(checked_tree(i, text)) for i, text in enumerate(texts)]

    def _compiled(self, node):
        kind, operands = kind_of(node), [self._compiled(child) for child in operands_of(node)]
        instruction = self._instruction(kind, node, operands)
        if instruction not in self._known:
            self._known[instruction] = len(self.instructions)
            self.instructions.append(instruction)
        return self._known[instruction]

    def _instruction(self, kind, node, operands):
        """(name, operand indices or what a leaf says)."""
        if kind == "number":
            return "number", repr(node.value)
        if kind in ("t", "pi"):
            return kind, None
        if kind == "variable":
            return node.value.id, node.slice.value
        if kind == "unary":
            return ("neg" if isinstance(node.op, ast.USub) else "same"), operands[0]
        if kind == "call":
            return node.func.id, operands[0]
        if isinstance(node.op, ast.Pow):
            return self._power(*operands)
        return OPERATIONS[type(node.op)], tuple(operands)

    def _power(self, x, exponent):
        name, text = self.instructions[exponent]
        sign = 1
        if name == "neg":
            sign, (name, text) = -1, self.instructions[text]
        if name == "number":
            return "power", (x, sign * float(text))
        return "general power", (x, exponent)

    def values(self, t, y, theta):
        """Value of every instruction; ``t, y, theta`` hold balls, nodes or pairs."""
        values = Values()
        for name, where in self.instructions:
            values.append(_value(name, where, values, t, y, theta))
        return values

    def __call__(self, t, y, theta):
        values = self.values(t, y, theta)
        return [values[i] for i in self.outputs]

    def transposed(self, values, output_bars, y_bars, theta_bars):
        """Adds (d output / d y)ᵀ bar and (d output / d theta)ᵀ bar to the lists, whose entries may be None; returns that of t."""
        bars = [None] * len(self.instructions)
        for i, bar in zip(self.outputs, output_bars):
            add(bars, i, bar)
        t_bars = [None]
        leaves = {"y": y_bars, "theta": theta_bars, "t": t_bars}
        for i in reversed(range(len(bars))):
            name, where = self.instructions[i]
            if bars[i] is None or name in ("number", "pi"):
                continue
            if name in leaves:
                add(leaves[name], where or 0, bars[i])
            else:
                for operand, bar in _cotangents(name, where, values, values[i], bars[i]):
                    add(bars, operand, bar)
        return t_bars[0]


class Values(list):
    """Values of instructions, and what forwards and backwards share of them: reciprocals, sines and cosines."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def shared(self, name, i):
        """`dual_numbers.inverse` or `sin_cos` of value i, made once."""
        if (name, i) not in self.known:
            self.known[name, i] = getattr(dual, name)(self[i])
        return self.known[name, i]


def add(entries, i, term):
    """entries[i] += term, where None is zero."""
    if term is not None:
        entries[i] = term if entries[i] is None else entries[i] + term


def _value(name, where, values, t, y, theta):
    if name == "number":
        return arb(float(where)) if "." in where or "e" in where.lower() else arb(int(where))
    if name in ("t", "pi"):
        return t if name == "t" else arb.pi()
    if name in ("y", "theta"):
        return (y if name == "y" else theta)[where]
    if name == "power":
        return dual.power(values[where[0]], where[1])
    if name in ("neg", "same"):
        return -values[where] if name == "neg" else values[where]
    if name in ("sin", "cos"):
        return values.shared("sin_cos", where)[name == "cos"]
    if name in dual.FUNCTIONS:
        return dual.FUNCTIONS[name](values[where])
    a, b = (values[i] for i in where)
    if name == "general power":
        return dual.exp(b * dual.log(a))
    return a + b if name == "+" else a - b if name == "-" else a * b if name == "*" else a * values.shared("inverse", where[1])


def _cotangents(name, where, values, value, bar):
    """(operand, its cotangent) of one instruction; value = op(operands)."""
    if name in ("neg", "same"):
        return [(where, -bar if name == "neg" else bar)]
    if name == "power":
        x, exponent = where
        return [(x, bar * (dual.power(values[x], exponent - 1) * arb(exponent)))] if exponent else []
    if name in ("sin", "cos"):
        sine, cosine = values.shared("sin_cos", where)
        return [(where, bar * cosine if name == "sin" else -(bar * sine))]
    if name in dual.SLOPES:
        return [(where, bar * dual.SLOPES[name](values[where], value))]
    a, b = where
    if name in "+-":
        return [(a, bar), (b, bar if name == "+" else -bar)]
    if name == "*":
        return [(a, bar * values[b]), (b, bar * values[a])]
    if name == "/":
        over = bar * values.shared("inverse", b)
        return [(a, over), (b, -(over * value))]
    bar = bar * value                                                           # d(a^b) = a^b (b da/a + log a db)
    return [(a, bar * values[b] * values.shared("inverse", a)), (b, bar * dual.log(values[a]))]
