"""Reference problems with neural right-hand sides, whose weights come from an integer formula."""
import math

from refnode.fields.neural import mlp_field
from refnode.problems.reference_problem import reference, sumsq
from refnode.problems.reference_set_classics import OBSERVED


def integer_weights(layers, time_input=False):
    """Weights of a perceptron, W1, b1, W2, b2, ... row-major, from a linear congruence.

    r_0 = 12345, r_j+1 = (25173 r_j + 13849) mod 65536, theta_j = s (r_j+1 - 32768)/32768, where s is the largest
    power of two with s^2 d_in <= 2 for the d_in inputs of the layer: 17 bits each.
    """
    r, theta = 12345, []
    for number, (d_in, d_out) in enumerate(zip(layers, layers[1:])):
        d_in += bool(time_input) and number == 0
        scale = 2.0 ** math.floor(math.log2(2.0 / d_in) / 2.0)
        for _ in range(d_out * d_in + d_out):
            r = (25173 * r + 13849) % 65536
            theta.append(scale * (r - 32768) / 32768)
    return theta


def perceptron(layers, time_input=False):
    """The right-hand side of a tanh perceptron as data."""
    layout = ",".join(f"W{k},b{k}" for k in range(1, len(layers))) + " row-major"
    return {"mlp": {"layers": list(layers), "act": "tanh", "time_input": time_input, "layout": layout}}


PROBLEMS = (
    reference(
        "mlp/2_16_2", mlp_field((2, 16, 2)), perceptron((2, 16, 2)),
        y0=[0.75, -0.5], theta=integer_weights((2, 16, 2)), span=(0.0, 4.0), ts=[0.8125, 1.9375, 2.75, 4.0],
        loss=sumsq([[0.5, 1.0, -0.25, 0.25], [0.25, -0.5, 0.5, 1.0]]), exposes=OBSERVED,
        note="The smallest neural right-hand side: 82 weights."),
)
