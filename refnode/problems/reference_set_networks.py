"""Reference problems with neural right-hand sides, whose weights come from an integer formula."""
import math

from refnode.fields.density import perceptron_density
from refnode.fields.neural import mlp_field
from refnode.problems.mistake_groups import OBSERVED, TIMED
from refnode.problems.reference_problem import expr, final, reference, sumsq


# --- numbers --------------------------------------------------------------------------------------

def congruence(count, start=12345):
    """``count`` numbers in [-1, 1): (r_j - 32768)/32768 with r_0 = start, r_j = (25173 r_j-1 + 13849) mod 65536, j >= 1."""
    r, numbers = start, []
    for _ in range(count):
        r = (25173 * r + 13849) % 65536
        numbers.append((r - 32768) / 32768)
    return numbers


def integer_weights(layers, time_input=False):
    """Weights of a perceptron, W1, b1, W2, b2, ... row-major: `congruence`, times a power of two for each layer.

    It is the largest s with s^2 d_in <= 2 for the d_in inputs of the layer: signals keep their size, in 17 bits.
    """
    scales = []
    for number, (d_in, d_out) in enumerate(zip(layers, layers[1:])):
        d_in += bool(time_input) and number == 0
        scales += [2.0 ** math.floor(math.log2(2.0 / d_in) / 2.0)] * (d_out * d_in + d_out)
    return [scale * number for scale, number in zip(scales, congruence(len(scales)))]


def quarters(n, count, start):
    """n rows of multiples of 1/4, at most 1 in size: `congruence`, rounded."""
    numbers = congruence(n * count, start)
    return [[round(4 * x) / 4 for x in numbers[i * count:(i + 1) * count]] for i in range(n)]


# --- right-hand sides as data ---------------------------------------------------------------------

def perceptron(layers, time_input=False):
    """A tanh perceptron."""
    layout = ",".join(f"W{k},b{k}" for k in range(1, len(layers))) + " row-major"
    return {"mlp": {"layers": list(layers), "act": "tanh", "time_input": time_input, "layout": layout}}


def density_texts(d, m):
    """A perceptron of one hidden layer with its log-density, (log p)' = -tr(W2 diag(1 - a^2) W1), as text."""
    b1, W2, b2 = m * d, m * d + m, 2 * m * d + m
    hidden = ["tanh(" + " + ".join(f"theta[{d * k + i}]*y[{i}]" for i in range(d)) + f" + theta[{b1 + k}])"
              for k in range(m)]
    velocity = [" + ".join(f"theta[{W2 + m * i + k}]*{hidden[k]}" for k in range(m)) + f" + theta[{b2 + i}]"
                for i in range(d)]
    gains = ["(" + " + ".join(f"theta[{W2 + m * i + k}]*theta[{d * k + i}]" for i in range(d)) + ")" for k in range(m)]
    return expr(*velocity, "-(" + " + ".join(f"(1 - {hidden[k]}**2)*{gains[k]}" for k in range(m)) + ")")


def weight_names(layers, time_input=False):
    """W1[0,0], W1[0,1], ..., b1[0], ... in the order of theta."""
    names = []
    for number, (d_in, d_out) in enumerate(zip(layers, layers[1:]), start=1):
        d_in += bool(time_input) and number == 1
        names += [f"W{number}[{i},{j}]" for i in range(d_out) for j in range(d_in)]
        names += [f"b{number}[{i}]" for i in range(d_out)]
    return names


def mlp(id, layers, y0, span, ts, note, time_input=False, theta=None, exposes=OBSERVED, zero=()):
    return reference(
        id, mlp_field(layers, time_input=time_input), perceptron(layers, time_input), y0=y0,
        theta=integer_weights(layers, time_input) if theta is None else theta, span=span, ts=ts,
        loss=sumsq(quarters(len(y0), len(ts), 54321)), exposes=exposes, note=note, zero=zero,
        names={"y": [f"y{i}" for i in range(len(y0))], "theta": weight_names(layers, time_input)})


# --- the problems ---------------------------------------------------------------------------------

def weights_ending_in_zero(layers):
    """The last layer, weights and biases, is zero."""
    last = (layers[-2] + 1) * layers[-1]
    return integer_weights(layers)[:-last] + [0.0] * last


PROBLEMS = (
    mlp("mlp/2_16_2", (2, 16, 2), [0.75, -0.5], (0.0, 4.0), [0.8125, 1.9375, 2.75, 4.0],
        "The smallest neural right-hand side: 82 weights."),
    mlp("mlp/2_32_32_2", (2, 32, 32, 2), [0.75, -0.5], (0.0, 2.0), [0.4375, 0.9375, 1.5625, 2.0],
        "Two hidden layers, 1218 weights: a transposed matrix between layers of equal width has the right shape.",
        exposes=OBSERVED + ("quadrature_not_controlled",)),
    mlp("mlp/8_32_8", (8, 32, 8), quarters(1, 8, 999)[0], (0.0, 2.0), [0.4375, 0.9375, 1.5625, 2.0],
        "Eight states, 552 weights."),
    mlp("mlp/time_2_16_2", (2, 16, 2), [0.75, -0.5], (0.5, 3.5), [1.0625, 1.9375, 2.75, 3.5],
        "Time is a third input of the first layer.", time_input=True, exposes=OBSERVED + TIMED),
    mlp("mlp/zero_last_layer", (2, 16, 2), [0.75, -0.5], (0.0, 2.0), [0.4375, 0.9375, 1.5625, 2.0],
        "The last layer begins at zero, as is usual: the state rests, its error estimates are 0, and only the last "
        "layer and y0 have gradients.", theta=weights_ending_in_zero((2, 16, 2)), zero=("theta[0:48]", "t0", "t1", "ts"),
        exposes=("differentiated_step_control", "step_heuristic_leak", "first_nan", "uncontrolled_tangent")),
    reference(
        "cnf/exact_trace", perceptron_density(2, 8), density_texts(2, 8),
        y0=[0.75, -0.5, 0.0], theta=integer_weights((2, 8, 2)), span=(0.0, 2.0), loss=final("y[2] - y[0]**2/2 - y[1]**2/2"),
        names={"y": ["z0", "z1", "log_density"], "theta": weight_names((2, 8, 2))},
        exposes=("component_term_dropped", "transposed_jacobian", "permuted_parameters", "quadrature_not_controlled"),
        note="A continuous normalising flow: the log-likelihood of one point, but for a constant, with the exact trace."),
)
