"""A step, its error norm and its transpose written out for one tableau and one number of states.

The loops of `steppers.explicit_rk` serve every method and every size, and for two or three states most of their
time goes into the loops themselves. Here the same sums stand line by line, with the coefficients in them, their
terms in the same order: the results are equal bit by bit. `specialize=True` compiles these into the drivers.

    >>> print(step_source(TABLEAUS["midpoint"], 1))
    def step(f, A, b, c, t, h, y, theta, tape, k, z, y1):
        z[0] = y[0] + h * (0.5 * k[0, 0])
        evaluate(f, t + 0.5 * h, z, theta, tape[1], k[1])
        y1[0] = y[0] + h * (0.0 * k[0, 0] + 1.0 * k[1, 0])
        evaluate(f, t + h, y1, theta, tape[2], k[2])
"""
import functools
import types

import numpy as np

from refnode.host_device import Driver, higher_order, outlined
from refnode.linalg import has_nonzero
from refnode.solve.integrate import step_and_test
from refnode.solve.step_size import error_norm
from refnode.steppers.explicit_rk import length_cotangent, slope_vjp
from refnode.steppers.system import evaluate

MOST_STATES = 8             # beyond, the loops cost little, and the text takes long to compile


# --- the text -------------------------------------------------------------------------------------

def weighted_sum(weights, term):
    """Text of sum_j weights_j term(j), from the first term on; a weight 0 stays, for 0 times infinity is no number."""
    return " + ".join(f"{float(weight)!r} * {term(j)}" for j, weight in enumerate(weights))


def stage_lines(z, weights, n, y="y[{m}]", k="k[{j}, {m}]"):
    """z = y + h sum_j weights_j k_j, where y and k are written so."""
    return [f"{z}[{m}] = {y.format(m=m)} + h * ({weighted_sum(weights, lambda j: k.format(j=j, m=m))})" for m in range(n)]


def step_source(tableau, n):
    """The text of `explicit_rk_step`."""
    A, b, c = tableau.arrays[:3]
    lines = ["def step(f, A, b, c, t, h, y, theta, tape, k, z, y1):"]
    for i in range(1, b.size):
        lines += stage_lines("z", A[i, :i], n)
        lines.append(f"evaluate(f, t + {float(c[i])!r} * h, z, theta, tape[{i}], k[{i}])")
    lines += stage_lines("y1", b, n)
    lines.append(f"evaluate(f, t + h, y1, theta, tape[{b.size}], k[{b.size}])")
    return "\n    ".join(lines)


def norm_lines(E, n, y="y[{m}]", y1="y1[{m}]", k="k[{j}, {m}]"):
    """The sums of `error_norm` for one block, and the text of the norm."""
    lines = ["first, second = 0.0, 0.0"]
    for m in range(n):
        before, after = y.format(m=m), y1.format(m=m)
        lines.append(f"scale = atol[{m}] + rtol[{m}] * max(abs({before}), abs({after}))")
        for name, weights in zip(("first", "second"), E):
            if weights.any():
                lines += [f"ratio = h * ({weighted_sum(weights, lambda j: k.format(j=j, m=m))}) / scale",
                          f"{name} += ratio * ratio" + (f" + 0.0 * {after}" if name == "first" else "")]
    return lines, f"first / sqrt((first + 0.01 * second) * {n}) if first != 0.0 else 0.0"


def norm_source(tableau, n):
    """The text of `error_norm` for one block."""
    sums, norm = norm_lines(tableau.arrays[3], n)
    return "\n    ".join(["def norm(E, h, k, y, y1, rtol, atol, blocks):", "if blocks.shape[0] != 2:",
                          "    return error_norm(E, h, k, y, y1, rtol, atol, blocks)", *sums, f"return {norm}"])


def step_vjp_source(tableau, n):
    """The text of `explicit_rk_step_vjp`, in which a slope gathers what the stages behind it hand it.

    ``u4_0`` is h z_bar of stage 4, component 0; the last row, s, belongs to y1.
    """
    A, b, c = tableau.arrays[:3]
    s = b.size
    rows = [*A[:, :s], b]
    lines = ["def step_vjp(f, f_vjp, A, b, c, t, h, y, theta, recompute, tape, k, y1, y1_bar, k_bar, z, z_bar, t_bar, "
             "h_bar, y_bar, theta_bar):",
             f"if has_nonzero(k_bar[{s}]):",
             f"    slope_vjp(f, f_vjp, 1.0, t, h, y1, theta, recompute, tape[{s}], k[{s}], k_bar[{s}], t_bar, h_bar, "
             "y1_bar, theta_bar)"]
    for i in range(s, 0, -1):
        bar = "y1_bar" if i == s else "z_bar"
        if i < s:
            lines += gather_lines(rows, i, s, n)
            lines += stage_lines("z", A[i, :i], n) + [f"z_bar[{m}] = 0.0" for m in range(n)]
            lines.append(f"slope_vjp(f, f_vjp, {float(c[i])!r}, t, h, z, theta, recompute, tape[{i}], k[{i}], "
                         f"k_bar[{i}], t_bar, h_bar, z_bar, theta_bar)")
        weights = "b" if i == s else f"A[{i}]"
        lines += ["if h_bar.shape[0] > 0:", f"    h_bar[0] += length_cotangent({weights}, {i}, k, {bar})"]
        lines += [line for m in range(n) for line in (f"y_bar[{m}] += {bar}[{m}]", f"u{i}_{m} = h * {bar}[{m}]")]
    lines += gather_lines(rows, 0, s, n)
    lines.append("slope_vjp(f, f_vjp, 0.0, t, h, y, theta, recompute, tape[0], k[0], k_bar[0], t_bar, h_bar, y_bar, "
                 "theta_bar)")
    return "\n    ".join(lines)


def gather_lines(rows, i, s, n):
    """k_bar_i += h sum_{j > i} a_ji z_bar_j, from the last stage on: the transpose of all `stage_lines` with k_i."""
    return [f"k_bar[{i}, {m}] = k_bar[{i}, {m}]" + "".join(f" + {float(rows[j][i])!r} * u{j}_{m}" for j in range(s, i, -1))
            for m in range(n)]


# --- the bodies -----------------------------------------------------------------------------------

NAMES = {"evaluate": evaluate, "error_norm": error_norm, "has_nonzero": has_nonzero, "slope_vjp": slope_vjp,
         "length_cotangent": length_cotangent, "sqrt": np.sqrt}


def function_of(source):
    """The function a text defines."""
    names = dict(NAMES)
    exec(source, names)                                     # of numbers and fixed names alone
    return names[source[4:source.index("(")]]


@functools.lru_cache(maxsize=None)
def written_out(tableau, n):
    """By name, what takes the place of bodies in a driver."""
    replaced = {"explicit_rk_step": higher_order(function_of(step_source(tableau, n))),
                "explicit_rk_step_vjp": higher_order(function_of(step_vjp_source(tableau, n))),
                "error_norm": higher_order(function_of(norm_source(tableau, n)))}
    return {**replaced, "attempt": rebuilt(step_and_test, replaced)}


def rebuilt(body, replaced):
    """A body, or a driver's function, with some of those it calls, directly or not, replaced by others."""
    function = getattr(body, "py_func", body)
    called = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    changed = {name: replaced[name] if name in replaced else rebuilt(old, replaced) for name, old in called.items()
               if old is not None and (name in replaced or getattr(old, "is_higher_order", False))}
    if all(new is called[name] for name, new in changed.items()):
        return body
    twin = types.FunctionType(function.__code__, {**function.__globals__, **changed}, function.__name__)
    if body is function:
        return twin
    return (higher_order if body.targetoptions["forceinline"] else outlined)(twin)


def written_out_driver(driver, tableau, n):
    """The driver, with its steps written out."""
    return Driver(rebuilt(driver.py_func, written_out(tableau, n)), driver.signature, driver.disjoint)
