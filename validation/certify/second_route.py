"""The same numbers by another way: extrapolation in 80-bit floats, and derivatives by complex steps.

Nothing is shared with the proofs but the parser: no Taylor series, no adjoint, no derivative rule. The right-hand side is
evaluated in numpy's complex long double, with a column for each input, whose imaginary part carries 1e-200 times a tangent;
Gragg's midpoint rule, extrapolated (Bulirsch and Stoer 1966), integrates all columns at once. Times are inputs as well: the
interval of a column ends at complex times. The error is ten times what changes when the tolerance is a thousand times larger, so it
covers rounding as well. Hessian-vector products are extrapolated differences of such gradients; their error is ten times what the
last column of the extrapolation changes, and that of the gradients over the smallest difference.

    python validation/certify/second_route.py ID ... | --all [--again]    writes the comparison into the certified files
"""
import argparse
import ast
import json
import pathlib
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from refnode.fields.expressions import checked_tree, kind_of, operands_of                 # noqa: E402
from refnode.interchange.canonical_json import problem_sha256                             # noqa: E402
from refnode.problems.certified import certified_ids, path_of                             # noqa: E402
from refnode.problems.reference_problem import switches_of                                # noqa: E402
from refnode.problems.reference_set import REFERENCE_PROBLEMS                             # noqa: E402

METHOD = "Gragg-Bulirsch-Stoer extrapolation in 80-bit floats, complex steps, differences of gradients for the hvp"
REAL, COMPLEX = np.longdouble, np.clongdouble
TINY = REAL(1e-200)                        # of the imaginary parts
TOLERANCE, COARSER = 1e-16, 1e-13
SUBSTEPS = [2 * (j + 1) for j in range(8)]
LAST = ("k200", "k1000", "mlp", "kepler", "mu100", "lorenz/t20", "dilution")        # take longest
NARROW = {"kepler": 18, "lorenz/t20": 32}         # bits of the widest difference, where gradients bend at once
MANY = 64                                  # more inputs than that are tested along a few directions
FLOOR = 64 * float(np.finfo(REAL).eps)

FUNCTIONS = {name: getattr(np, name) for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "sinh", "cosh")}


# --- right-hand sides and losses --------------------------------------------------------------------

def evaluated(tree, t, y, theta):
    """The value of a syntax tree, of arrays over the columns."""
    kind, x = kind_of(tree), [evaluated(child, t, y, theta) for child in operands_of(tree)]
    if kind == "number":
        return COMPLEX(tree.value)
    if kind in ("t", "pi"):
        return t if kind == "t" else COMPLEX(4 * np.arctan(REAL(1)))
    if kind == "variable":
        return (y if tree.value.id == "y" else theta)[tree.slice.value]
    if kind == "unary":
        return -x[0] if isinstance(tree.op, ast.USub) else x[0]
    if kind == "call":
        return FUNCTIONS[tree.func.id](x[0])
    if isinstance(tree.op, ast.Pow):
        return _power(tree.right, *x)
    return {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide}[type(tree.op)](*x)


def _power(right, base, exponent):
    """Small whole powers as products: numpy's complex power would go through the logarithm."""
    n = right.value if isinstance(right, ast.Constant) else None
    if n is not None and n == int(n) and 0 <= n <= 16:
        result = COMPLEX(1)
        for _ in range(int(n)):
            result = result * base
        return result
    return np.exp(exponent * np.log(base))


def right_hand_side(rhs):
    """f(t, y, theta) -> (n, columns) of a form as data without pieces."""
    if "mlp" in rhs:
        return _perceptron(**rhs["mlp"])
    trees = [checked_tree(i, text) for i, text in enumerate(rhs["expr"])]

    def f(t, y, theta):
        return np.array([evaluated(tree, t, y, theta) + np.zeros_like(t) for tree in trees])
    return f


def _perceptron(layers, time_input=False, **_):
    def f(t, y, theta):
        x, start = (np.concatenate([y, t[None]]) if time_input else y), 0
        for number, d_out in enumerate(layers[1:]):
            d_in = x.shape[0]
            weights = theta[start:start + d_out * d_in].reshape(d_out, d_in, -1)
            bias = theta[start + d_out * d_in:start + d_out * d_in + d_out]
            x = (weights * x[None]).sum(axis=1) + bias
            x = np.tanh(x) if number < len(layers) - 2 else x
            start += d_out * d_in + d_out
        return x
    return f


def loss_terms(loss, scale=1.0):
    scale = scale * loss.get("scale", 1.0)
    if loss["kind"] == "sum":
        return [pair for term in loss["terms"] for pair in loss_terms(term, scale)]
    return [(loss, scale)]


def loss_value(terms, ys, y1, cost, t1):
    """Value of the loss in every column; ys (K, n, columns)."""
    total = cost
    for term, scale in terms:
        if term["kind"] == "sumsq":
            data = 0 if term["data"] is None else np.array(term["data"], dtype=REAL).T[:, :, None]
            total = total + scale * ((ys - data) ** 2).sum(axis=(0, 1))
        elif term["kind"] == "linear":
            total = total + scale * (np.array(term["weights"], dtype=REAL).T[:, :, None] * ys).sum(axis=(0, 1))
        elif term["kind"] == "final":
            total = total + scale * evaluated(checked_tree(0, term["expr"]), t1, y1, [])
    return total


# --- integration ------------------------------------------------------------------------------------

def midpoint(f, a, h, y, count):
    """Gragg's rule with ``count`` substeps from a to a + h, smoothed."""
    sub = h / count
    before, here = y, y + sub * f(a, y)
    for i in range(1, count):
        before, here = here, before + 2 * sub * f(a + i * sub, here)
    return (before + here + sub * f(a + h, here)) / 2


def extrapolated(f, a, h, y):
    """(y(a + h), an error of the last but one order), Aitken and Neville in h^2."""
    row = []
    for j, count in enumerate(SUBSTEPS):
        new = [midpoint(f, a, h, y, count)]
        for k in range(j):
            ratio = (REAL(count) / SUBSTEPS[j - k - 1]) ** 2
            new.append(new[k] + (new[k] - row[k]) / (ratio - 1))
        row = new
    return row[-1], row[-1] - row[-2]


def error_size(error, y, start):
    """Largest error of a value or tangent in units of the largest of its component, among the columns."""
    def ratio(e, x, x0):
        scale = np.maximum(np.abs(x), np.abs(x0)).max(axis=1)
        scale = np.where(scale > 0, scale, 1)
        return float((np.abs(e).max(axis=1) / scale).max())
    return max(ratio(error.real, y.real, start.real), ratio(error.imag / TINY, y.imag / TINY, start.imag / TINY))


def integrate(f, a, b, y, tolerance, seen=None):
    """y at b from y at a: arrays of complex times, one for each column. ``seen(s0, s1, y0, y1)`` may stop by returning True."""
    where, length, part = REAL(0), b - a, REAL(1) / 64
    if not np.any(length):
        return y
    while where < 1:
        part = min(part, 1 - where)
        new, error = extrapolated(f, a + where * length, part * length, y)
        size = error_size(error, new, y) / tolerance
        if np.isfinite(size) and size <= 1:
            if seen is not None and seen(where, where + part, y, new):
                return y
            where, y = where + part, new
        part = part * REAL(min(4.0, max(0.1, 0.8 * max(size, 1e-30) ** (-1 / 15)))) if np.isfinite(size) else part / 10
        if part < 1e-12:
            raise ArithmeticError("the second route cannot go on")
    return y


class Route:
    """Values of one problem, with a column for each direction of the inputs (y0, theta, t0, t1, ts); every column may have shifted
    inputs."""

    def __init__(self, problem, directions, tolerance, shifts):
        self.n, p = len(problem["y0"]), len(problem["theta"])
        ts = problem["ts"] or []
        numbers = np.array([*problem["y0"], *problem["theta"], problem["t0"], problem["t1"], *ts], dtype=REAL)
        inputs = numbers[:, None] + shifts + 1j * TINY * directions
        self.y0, self.theta = inputs[:self.n], inputs[self.n:self.n + p]
        self.t0, self.t1 = inputs[self.n + p], inputs[self.n + p + 1]
        self.ts = list(inputs[self.n + p + 2:]) if problem["ts"] else [self.t1]
        self.terms, self.rhs = loss_terms(problem["loss"]), problem["rhs"]
        self.tolerance = tolerance * max(1.0, abs(problem["t0"]) / 16, abs(problem["t1"]) / 16)     # of what t itself is rounded to
        self.costs = [(checked_tree(0, term["expr"]), scale) for term, scale in self.terms if term["kind"] == "running"]
        self.switches, self.event_times = switches_of(problem["rhs"]), []

    def loss(self):
        """(loss, ys) with tangents in the imaginary parts."""
        stops = [*self.ts, self.t1]
        y, t = np.concatenate([self.y0, np.zeros_like(self.t0)[None]]), self.t0
        pieces = [self._with_cost(right_hand_side(rhs)) for rhs in self.rhs.get("pieces", [self.rhs])]
        found = []
        for stop in stops:
            while (event := self._next_event(pieces[0], t, stop, y)) is not None:
                y, t, pieces = *event, pieces[1:]
                self.event_times.append(t)
            y, t = integrate(pieces[0], t, stop, y, self.tolerance), stop
            found.append(y)
        ys = np.array([x[:self.n] for x in found[:-1]])
        return loss_value(self.terms, ys, found[-1][:self.n], found[-1][-1], self.t1), ys

    def _next_event(self, f, t, stop, y):
        """(y, t) at the next switch, if it comes before ``stop``."""
        if len(self.event_times) == len(self.switches):
            return None
        (kind, text), = self.switches[len(self.event_times)].items()
        if kind == "state":
            return self._through_state(f, checked_tree(0, text), t, stop, y)
        event = evaluated(checked_tree(0, text), t, y, self.theta)
        first, middle, last = (x.real[0] for x in (t, event, stop))
        return (integrate(f, t, event, y, self.tolerance), event) if min(first, last) < middle < max(first, last) else None

    def _with_cost(self, f):
        def with_cost(t, y):
            cost = sum((scale * evaluated(tree, t, y, self.theta) for tree, scale in self.costs), np.zeros_like(t))
            return np.concatenate([f(t, y[:self.n], self.theta), cost[None]])
        return with_cost

    def _through_state(self, f, tree, t, stop, y):
        """To the switch if it comes before ``stop``: the step in which the sign changes, then Newton's method in every column,
        whose imaginary parts move with the inputs. Behind a switch the next one is below 0, though it may start there."""
        def guard(t, y):
            return evaluated(tree, t, y, self.theta)

        bracket, sign = [], -1.0 if self.event_times else np.sign(guard(t, y).real[0])

        def seen(s0, s1, y0, y1):
            if np.sign(guard(t + s1 * (stop - t), y1).real[0]) != sign:
                bracket.append((t + s0 * (stop - t), y0))
            return bool(bracket)
        integrate(f, t, stop, y, self.tolerance, seen)
        if not bracket:
            return None
        start, y_start = bracket[0]
        event, here = start, y_start
        for _ in range(60):
            rate = f(event, here)
            small = REAL(2.0 ** -40)
            speed = (guard(event + small, here + small * rate) - guard(event - small, here - small * rate)) / (2 * small)
            move = -guard(event, here) / speed.real
            event = event + move
            here = integrate(f, start, event, y_start, self.tolerance)
            if np.abs(move.real).max() < 1e-19 * (1 + np.abs(event.real).max()) and np.abs(move.imag).max() < 1e-17 * TINY:
                break
        return here, event


def values_of(problem, tolerance, with_hvp):
    """({name: values}, directions of the inputs that were asked for) by complex steps."""
    n, p, count = len(problem["y0"]), len(problem["theta"]), len(problem["ts"] or [])
    total = n + p + 2 + count
    directions = np.eye(total, dtype=REAL)
    if n + p > MANY:
        mixed = np.zeros((total, 4), dtype=REAL)
        mixed[:n + p] = np.cos(np.outer(np.arange(1, n + p + 1), np.arange(1, 5)) * REAL(0.7))
        directions = np.concatenate([mixed, directions[:, n + p:]], axis=1)
    asked = directions.shape[1]
    tested = directions[:, :4 if n + p > MANY else n + p]
    widths, shift = hvp_widths(problem, total) if problem["hvp_direction"] and with_hvp else ([], None)
    columns = np.concatenate([directions] + [tested] * (2 * len(widths)), axis=1)
    shifts = np.zeros_like(columns)
    for j, width in enumerate(w for width in widths for w in (width, -width)):
        start = asked + j * tested.shape[1]
        shifts[:, start:start + tested.shape[1]] = width * shift[:, None]
    route = Route(problem, columns, tolerance, shifts)
    loss, ys = route.loss()
    values = {"loss": loss.real[:1], "y": ys[:, :, 0].real.T.ravel(), "grad": loss.imag[:asked] / TINY}
    if route.event_times:
        values["event_time"] = np.array([event.real[0] for event in route.event_times])
    if widths:
        gradients = (loss.imag[asked:] / TINY).reshape(len(widths), 2, -1)
        values |= dict(zip(("hvp", "hvp_change"), differences(widths, gradients)), hvp_width=float(widths[-1]))
    return values, directions


def hvp_widths(problem, total):
    """Half widths of the differences, and the direction among all inputs."""
    along = [*problem["hvp_direction"]["y0"], *problem["hvp_direction"]["theta"]]
    point = np.array([*problem["y0"], *problem["theta"]])
    size = float(np.max(np.abs(along) / np.maximum(np.abs(point), 2.0 ** -3)))
    shift = np.zeros(total, dtype=REAL)
    shift[:len(along)] = np.array(along, dtype=REAL)
    first = next((bits for part, bits in NARROW.items() if part in problem["id"]), 8)
    return [REAL(2.0 ** (-first - j)) / REAL(size) for j in range(4)], shift


def differences(widths, gradients):
    """Central differences of gradients, extrapolated in the square of their width; and the last change."""
    row = []
    for j, (width, (above, below)) in enumerate(zip(widths, gradients)):
        new = [(above - below) / (2 * width)]
        for k in range(j):
            new.append(new[k] + (new[k] - row[k]) / (REAL(4) ** (k + 1) - 1))
        row = new
    return row[-1], row[-1] - row[-2]


# --- comparison -------------------------------------------------------------------------------------

def compared(content, problem):
    """{"method", "tolerance", "difference", "own_error"}, relative to the largest entry of a quantity; raises if they differ by more
    than the route's own error."""
    fine, directions = values_of(problem, TOLERANCE, True)
    coarse, _ = values_of(problem, COARSER, False)
    proven = {name: np.ravel(numbers(entries)) for name, entries in content["values"].items()}
    gradient = np.concatenate([proven["grad_y0"], proven["grad_theta"], proven["grad_t0"], proven["grad_t1"], proven["grad_ts"]])
    inputs = len(problem["y0"]) + len(problem["theta"])
    expected = {"y": proven["y"], "loss": proven["loss"], "grad": directions.T @ gradient}
    if "hvp" in fine:
        hvp = np.concatenate([proven["hvp_y0"], proven["hvp_theta"]])
        expected["hvp"] = directions[:inputs, :fine["hvp"].size].T @ hvp
    if "event_time" in fine:
        expected["event_time"] = proven["event_time"]
    result = {"method": METHOD, "tolerance": TOLERANCE, "difference": {}, "own_error": {}}
    for name, truth in expected.items():
        scale = float(np.abs(truth).max()) or 1.0
        own = 10 * float(np.abs(fine["hvp_change"] if name == "hvp" else fine[name] - coarse[name]).max()) / scale + FLOOR
        if name == "hvp":
            own += result["own_error"]["grad"] * float(np.abs(expected["grad"]).max()) / fine["hvp_width"] / scale
        difference = float(np.abs(fine[name] - truth).max()) / scale
        result["difference"][name], result["own_error"][name] = float(f"{difference:.2g}"), float(f"{own:.2g}")
        if not difference <= own:
            raise ArithmeticError(f"{name} differs by {difference:.2g}, the second route's own error is {own:.2g}")
    return result


def numbers(entries):
    """Midpoints in 80 bits."""
    return np.array([numbers(entry) for entry in entries], dtype=REAL) if isinstance(entries, list) else REAL(entries["mid"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--all", action="store_true", help="every certified problem that has no comparison yet")
    parser.add_argument("--again", action="store_true", help="with --all: those that have one as well")
    options = parser.parse_args()
    failed = 0
    ids = sorted(certified_ids(), key=lambda id: any(part in id for part in LAST)) if options.all else options.ids
    for id in ids:
        content, started = json.loads(path_of(id).read_text(encoding="utf-8")), time.monotonic()
        problem = REFERENCE_PROBLEMS[id].to_dict()
        if content["problem_sha256"] != problem["sha256"]:
            print(f"{id:36} belongs to another version of the problem", flush=True)
            continue
        if options.all and not options.again and "second_route" in content["provenance"]:
            continue
        try:
            content["provenance"]["second_route"] = route = compared(content, problem)
        except ArithmeticError as error:
            print(f"{id:36} {error}", flush=True)
            failed += 1
            continue
        content["sha256"] = problem_sha256(content)
        path_of(id).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"{id:36} " + "   ".join(f"{name} {route['difference'][name]:.1e} ({route['own_error'][name]:.1e})"
                                       for name in route["difference"]) + f"   {time.monotonic() - started:.0f} s", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
