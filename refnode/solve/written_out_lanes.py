"""A step of samples side by side and its transpose, written out for a tableau, a number of states and one of parameters.

`solve.lanes` says what lies where, and has the same as loops over the bodies of one sample. Here a lane is one pass through
a loop of straight code, which LLVM turns into vector instructions: where all offsets are numbers, it can tell that no two
passes touch the same entry, and what the field reads and writes stays in registers (`local_vector`). Terms stand in the order of
`written_out`, so that every lane has the bits of a sample alone.
"""
import functools

import numpy as np

from refnode.host_device import Driver, higher_order, host_device
from refnode.linalg import has_nonzero, local_vector
from refnode.solve.integrate import STIFFNESS_BOUND
from refnode.solve.written_out import norm_lines, rebuilt, stage_lines

LANES = 8                   # doubles in the widest vectors there are (AVX-512), and two or four of the narrower ones
NAMED = {"y": "y_{m}", "k": "k{j}_{m}"}      # a state and slopes that are numbers of this pass
START, STOP, ON, STATE = range(4)      # of a log's row: t, t_next, whether it is a step; then state, and the slopes of all stages


@host_device
def slopes_at(n):
    """Where the slopes begin in a row of the log."""
    return STATE + n


def row_width(s, n):
    """Entries of a row of the log."""
    return (slopes_at(n) + s * n) * LANES


# --- the text -------------------------------------------------------------------------------------

def lane(array, entry):
    """Text of entry ``entry`` of this lane."""
    return f"{array}[{entry * LANES} + l]"


def local_lines(**sizes):
    """Arrays of this pass alone."""
    return [f"{name} = local_vector({size})" for name, size in sizes.items()]


def state_lines(out, weights, n):
    """`written_out.stage_lines` of this lane."""
    return stage_lines(out, weights, n, **NAMED)


def error_lines(E, n):
    """`error_norm` of this lane."""
    sums, norm = norm_lines(E, n, y1="end[{m}]", **NAMED)
    return [*sums, f"error[l] = {norm}"]


def stiffness_lines(c, n):
    """`integrate.is_stiff`; z holds the last stage."""
    if c[-1] != 1.0:
        return ["stiff[l] = 0.0"]
    s = c.size
    return ["slopes, states = 0.0, 0.0",
            *(line for m in range(n) for line in (f"slopes = max(slopes, abs(k{s}_{m} - k{s - 1}_{m}))",
                                                  f"states = max(states, abs(end[{m}] - z[{m}]))")),
            f"stiff[l] = 1.0 if abs(h) * slopes > {STIFFNESS_BOUND!r} * states else 0.0"]


def step_source(tableau, n, p):
    """The text of `lanes.step_lanes`."""
    A, b, c, E = tableau.arrays[:4]
    s, slopes = b.size, slopes_at(n)
    lines = local_lines(z=n, end=n, dy=n, own=p) + [f"own[{j}] = {lane('theta', j)}" for j in range(p)]
    lines += ["t, h = start[l], stop[l] - start[l]", f"{lane('row', START)}, {lane('row', STOP)} = t, stop[l]"]
    for m in range(n):
        lines += [f"y_{m}, k0_{m} = {lane('y', m)}, {lane('slope', m)}", f"{lane('row', STATE + m)} = y_{m}",
                  f"{lane('row', slopes + m)} = k0_{m}"]
    for i in range(1, s + 1):
        last = i == s
        lines += state_lines("end" if last else "z", b if last else A[i, :i], n)
        lines.append(f"f(t + {'' if last else f'{float(c[i])!r} * '}h, {'end' if last else 'z'}, own, tape, dy)")
        for m in range(n):
            lines += [f"k{i}_{m} = dy[{m}]", f"{lane('slope_1', m) if last else lane('row', slopes + i * n + m)} = k{i}_{m}"]
    lines += [f"{lane('y1', m)} = end[{m}]" for m in range(n)] + error_lines(E, n) + stiffness_lines(c, n)
    return text_of("step_lanes(f, method, tolerance, start, stop, y, slope, theta, tape, row, y1, slope_1, error, stiff)",
                   ["rtol, atol = tolerance.rtol, tolerance.atol"], lines)


def step_vjp_source(tableau, n, p):
    """The text of `lanes_adjoint.pull_step_lanes`."""
    A, b, c = tableau.arrays[:3]
    s, slopes = b.size, slopes_at(n)
    begin = local_lines(z=n, z_bar=n, slope_bar=n, own=p, own_bar=p, t_bar=1)
    begin.append("t_bar[0] = 0.0")
    begin += [line for j in range(p) for line in (f"own[{j}] = {lane('theta', j)}", f"own_bar[{j}] = {lane('theta_bar', j)}")]
    begin += [f"t, h, on = {lane('row', START)}, {lane('row', STOP)} - {lane('row', START)}, {lane('row', ON)} != 0.0"]
    begin += [f"y_{m} = {lane('row', STATE + m)}" for m in range(n)]
    begin += [f"k{i}_{m} = {lane('row', slopes + i * n + m)}" for i in range(s) for m in range(n)]

    ends = begin + state_lines("z", b, n)
    ends += [f"z_bar[{m}], slope_bar[{m}] = {lane('y_bar', m)}, {lane('k_bar', s * n + m)}" for m in range(n)]
    ends += ["f_vjp(t + 1.0 * h, z, own, tape, slope_bar, t_bar, z_bar, own_bar)",
             f"moved = on and ({' or '.join(f'slope_bar[{m}] != 0.0' for m in range(n))})"]
    ends += kept_where("moved", "y_bar", "z_bar", n) + kept_where("moved", "theta_bar", "own_bar", p)

    lines = list(begin) + [f"u{s}_{m} = h * {lane('y_bar', m)}" for m in range(n)]
    lines += [f"y_bar_{m} = {lane('y_more', m)} + {lane('y_bar', m)}" for m in range(n)]
    for i in range(s - 1, -1, -1):
        for m in range(n):
            terms = (f"{float(row[i])!r} * u{j}_{m}" for j, row in zip(range(s, i, -1), [b, *A[s - 1:i:-1]]))
            lines.append(f"slope_bar[{m}] = {' + '.join([lane('k_bar', i * n + m), *terms])}")
        lines += state_lines("z", A[i, :i], n) if i else [f"z[{m}] = y_{m}" for m in range(n)]
        lines += [f"z_bar[{m}] = {'0.0' if i else f'y_bar_{m}'}" for m in range(n)]
        lines.append(f"f_vjp(t + {float(c[i])!r} * h, z, own, tape, slope_bar, t_bar, z_bar, own_bar)")
        if i:
            lines += [line for m in range(n) for line in (f"y_bar_{m} += z_bar[{m}]", f"u{i}_{m} = h * z_bar[{m}]")]
    lines += kept_where("on", "y_bar", "z_bar", n) + kept_where("on", "theta_bar", "own_bar", p)
    return text_of("pull_step_lanes(f, f_vjp, method, row, theta, tape, k_bar, y_more, y_bar, theta_bar)",
                   [f"if has_nonzero(k_bar[{s * n * LANES}:]):", *loop_lines(ends, 1)], lines)


def kept_where(condition, array, own, size):
    """What this lane found, where the condition holds; else what there was."""
    return [f"{lane(array, m)} = {own}[{m}] if {condition} else {lane(array, m)}" for m in range(size)]


def loop_lines(lines, depth=0):
    """The loop over the lanes around lines of text."""
    return ["    " * depth + f"for l in range({LANES}):", *("    " * (depth + 1) + line for line in lines)]


def text_of(head, before, lines):
    """A function of lines, and lines for each lane."""
    return "\n    ".join([f"def {head}:", *before, *loop_lines(lines)])


# --- the bodies -----------------------------------------------------------------------------------

NAMES = {"has_nonzero": has_nonzero, "local_vector": local_vector, "sqrt": np.sqrt}


def function_of(source):
    """The function a text defines."""
    names = dict(NAMES)
    exec(source, names)                                     # of numbers and fixed names alone
    return names[source[4:source.index("(")]]


class LanesLoop:
    """A loop around steps of lanes, which becomes a driver where these are written out."""

    def __init__(self, function, signature):
        self.function, self.signature = function, signature

    @functools.lru_cache(maxsize=None)
    def driver(self, tableau, n, p):
        """The `Driver` for a tableau, n states and p parameters."""
        written = {"step_lanes": step_source, "pull_step_lanes": step_vjp_source}
        replaced = {name: higher_order(function_of(source(tableau, n, p))) for name, source in written.items()}
        return Driver(rebuilt(self.function, replaced), self.signature, disjoint=True)
