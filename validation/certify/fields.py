"""Right-hand sides and losses of reference problems, evaluated on balls, nodes or pairs, with their transposes."""
from flint import arb

import dual_numbers as dual
from series_graph import Combination, Node
from texts import Texts, add


class TextField:
    """{"expr": [...]}."""

    def __init__(self, texts):
        self.texts = Texts(texts)

    def rates(self, t, y, theta):
        return self.texts(t, y, theta)

    def pull(self, t, y, theta, lam):
        """(rates, (df/dy)ᵀ lam, (df/dtheta)ᵀ lam); None is zero."""
        values = self.texts.values(t, y, theta)
        y_bars, theta_bars = [None] * len(y), [None] * len(theta)
        self.texts.transposed(values, lam, y_bars, theta_bars)
        return [values[i] for i in self.texts.outputs], y_bars, theta_bars


class Perceptron:
    """{"mlp": ...}: W_L tanh(... tanh(W_1 x + b_1) ...) + b_L, x = y or (y, t)."""

    def __init__(self, layers, time_input=False, act="tanh", **_):
        if act != "tanh":
            raise ValueError(f"act must be 'tanh', found {act!r}")
        self.widths, self.time_input, start = list(layers), bool(time_input), 0
        self.weights = []                                        # (start of W, of b, d_out, d_in)
        for number, (d_in, d_out) in enumerate(zip(layers, layers[1:])):
            d_in += self.time_input and number == 0
            self.weights.append((start, start + d_out * d_in, d_out, d_in))
            start += d_out * d_in + d_out

    def _activations(self, t, y, theta):
        """Inputs of every layer, and the output."""
        x = [*y, t] if self.time_input else list(y)
        inputs = []
        for number, (w, b, d_out, d_in) in enumerate(self.weights):
            inputs.append(x)
            x = [inner(theta[w + i * d_in:w + (i + 1) * d_in], x) + theta[b + i] for i in range(d_out)]
            if number < len(self.weights) - 1:
                x = [dual.tanh(z) for z in x]
        return inputs, x

    def rates(self, t, y, theta):
        return self._activations(t, y, theta)[1]

    def pull(self, t, y, theta, lam):
        inputs, rates = self._activations(t, y, theta)
        theta_bars, bars = [None] * len(theta), lam
        for (w, b, d_out, d_in), x, number in reversed(list(zip(self.weights, inputs, range(len(inputs))))):
            for i in range(d_out):
                theta_bars[b + i] = bars[i]
                for j in range(d_in):
                    theta_bars[w + i * d_in + j] = Pairs.of(bars[i], x[j])
            bars = [inner([theta[w + i * d_in + j] for i in range(d_out)], bars) for j in range(d_in)]
            if number:
                bars = [bar * (1 - a * a) for bar, a in zip(bars, x)]
        return rates, bars[:len(y)], theta_bars


def inner(weights, x):
    """sum_j w_j x_j of weights, and of nodes or pairs of them."""
    w, w_tan = zip(*map(dual.parts, weights))
    x, x_tan = zip(*map(dual.parts, x))
    return dual.paired(_combined(w, x), sum_of([_combined(w, x_tan), _combined(w_tan, x)]))


def _combined(weights, x):
    """The same of values; those that are absent count nothing."""
    terms = [(w, z) for w, z in zip(weights, x) if w is not None and z is not None]
    if terms and all(isinstance(z, Node) for _, z in terms):
        return Combination(*zip(*terms))
    return sum_of([w * z for w, z in terms])


def sum_of(terms):
    terms = [term for term in terms if term is not None]
    return sum(terms[1:], terms[0]) if terms else None


class Pairs:
    """sum of products a b of nodes of which only the integral is asked, and its tangent if there is one."""

    def __init__(self, pairs, tangent=None):
        self.pairs, self.tangent = pairs, tangent

    @classmethod
    def of(cls, a, b):
        (a, a_tan), (b, b_tan) = dual.parts(a), dual.parts(b)
        tangent = [(x, z) for x, z in ((a_tan, b), (a, b_tan)) if x is not None and z is not None]
        return cls([(a, b)], cls(tangent) if tangent else None)


def field_of(rhs):
    """The field of its form as data; of pieces, a list."""
    if "mlp" in rhs:
        return Perceptron(**rhs["mlp"])
    if "pieces" in rhs:
        return [field_of(piece) for piece in rhs["pieces"]]
    return TextField(rhs["expr"])


class Guard:
    """G(t, y, theta) of a switch, zero where the pieces change: t - time, or the state's text."""

    def __init__(self, switch):
        self.kind, = switch
        text = switch[self.kind]
        self.texts = Texts([f"t - ({text})" if self.kind == "time" else text])

    def time(self, theta):
        """The switching time, if it is given by theta alone."""
        return -dual.parts(self.value(arb(0), [], theta))[0]

    def value(self, t, y, theta):
        return self.texts(t, y, theta)[0]

    def gradient(self, t, y, theta):
        """(G_t, G_y, G_theta); zeros for what is absent."""
        y_bars, theta_bars = [None] * len(y), [None] * len(theta)
        t_bar = self.texts.transposed(self.texts.values(t, y, theta), [arb(1)], y_bars, theta_bars)
        return [filled([t_bar])[0], filled(y_bars), filled(theta_bars)]


def filled(entries):
    return [arb(0) if entry is None else entry for entry in entries]


class Loss:
    """The terms of a loss: of observations, of y(t1), and running ones (text, scale)."""

    def __init__(self, data, n):
        self.n, self.terms = n, list(_terms(data, 1.0))
        self.running = [(Texts([term["expr"]]), arb(scale)) for term, scale in self.terms if term["kind"] == "running"]

    def observed(self, ys):
        """(value, cotangents of ys) of states ys[k] at the observation times."""
        total, ys_bar = arb(0), [[None] * self.n for _ in ys]
        for term, scale in self.terms:
            for k, y in enumerate(ys):
                for i, x in enumerate(y):
                    if term["kind"] == "sumsq":
                        residual = x - (arb(0) if term["data"] is None else arb(term["data"][i][k]))
                        total = total + residual * residual * arb(scale)
                        add(ys_bar[k], i, residual * arb(2.0 * scale))
                    elif term["kind"] == "linear":
                        weight = arb(term["weights"][i][k]) * arb(scale)
                        total = total + x * weight
                        add(ys_bar[k], i, weight)
        return total, [filled(row) for row in ys_bar]

    def final(self, t, y):
        """(value, cotangent of y) of the state at t1."""
        total, y_bars = arb(0), [None] * self.n
        for term, scale in self.terms:
            if term["kind"] == "final":
                texts = Texts([term["expr"]])
                values = texts.values(t, y, [])
                total = total + values[texts.outputs[0]] * arb(scale)
                texts.transposed(values, [arb(scale)], y_bars, [])
        return total, filled(y_bars)

    def running_value(self, t, y, theta):
        return sum((texts(t, y, theta)[0] * scale for texts, scale in self.running), arb(0))

    def pull_running(self, t, y, theta, y_bars, theta_bars):
        """Adds the running cost's derivatives; returns its value."""
        total = arb(0)
        for texts, scale in self.running:
            values = texts.values(t, y, theta)
            texts.transposed(values, [scale], y_bars, theta_bars)
            total = values[texts.outputs[0]] * scale + total
        return total


def _terms(data, scale):
    scale = scale * float(data.get("scale", 1.0))
    if data["kind"] == "sum":
        for term in data["terms"]:
            yield from _terms(term, scale)
    else:
        yield data, scale
