"""The multilayer perceptron outside a vector field, as a triple in NumPy, with its hvp: heads, encoders, decoders.

Its layers are a list of pairs (W, b), as `refnode.layers.parameters.mlp_layout` names them. The field of the
same formula, compiled, is `refnode.fields.neural.mlp_field`.
"""
from refnode.layers.activations import ACTIVATIONS
from refnode.layers.dense import dense, dense_hvp, dense_jvp, dense_vjp


def perceptron(x, layers, activation="tanh"):
    """z = W_L a_{L-1} + b_L, a_l = σ(W_l a_{l-1} + b_l), a_0 = x, for each row of x (batch, d)."""
    return perceptron_inputs(x, layers, activation)[-1]


def perceptron_inputs(x, layers, activation):
    """a_0, ..., a_{L-1}, and z behind them."""
    inputs, sigma = [x], ACTIVATIONS[activation].form
    for number, (W, b) in enumerate(layers, start=1):
        z = dense(inputs[-1], W, b)
        inputs.append(z if number == len(layers) else sigma(z))
    return inputs


def perceptron_jvp(x, layers, x_tan, layers_tan, activation="tanh"):
    """Tangent of `perceptron`; ``layers_tan`` is a list of pairs (W_tan, b_tan)."""
    a, a_tan, slope_jvp, sigma = x, x_tan, ACTIVATIONS[activation].jvp, ACTIVATIONS[activation].form
    for number, ((W, b), (W_tan, b_tan)) in enumerate(zip(layers, layers_tan), start=1):
        z, z_tan = dense(a, W, b), dense_jvp(a, W, a_tan, W_tan, b_tan)
        last = number == len(layers)
        a, a_tan = (z, z_tan) if last else (sigma(z), slope_jvp(z, z_tan))
    return a_tan


def perceptron_vjp(x, layers, z_bar, activation="tanh"):
    """Cotangents of `perceptron`, last layer first: (x_bar, layers_bar), the latter a list of pairs (W_bar, b_bar)."""
    inputs, sigma_vjp = perceptron_inputs(x, layers, activation), ACTIVATIONS[activation].vjp
    layers_bar = []
    for number in range(len(layers), 0, -1):
        (W, b), a = layers[number - 1], inputs[number - 1]
        if number < len(layers):
            z_bar = sigma_vjp(dense(a, W, b), z_bar)                # a_l = σ(z_l)
        z_bar, W_bar, b_bar = dense_vjp(a, W, z_bar)                # z_l = W_l a_{l-1} + b_l
        layers_bar.insert(0, (W_bar, b_bar))
    return z_bar, layers_bar


def perceptron_hvp(x, layers, x_tan, layers_tan, z_bar, z_bar_tan, activation="tanh"):
    """Tangent of `perceptron_vjp`, of its inputs and of z_bar: (x_bar_tan, layers_bar_tan)."""
    inputs, sigma = perceptron_inputs(x, layers, activation), ACTIVATIONS[activation]
    tans = [perceptron_jvp(x, layers[:number], x_tan, layers_tan[:number], activation) for number in range(1, len(layers) + 1)]
    a_tans = [x_tan] + [sigma.jvp(dense(a, W, b), z_tan) for a, (W, b), z_tan in zip(inputs, layers[:-1], tans)]
    layers_bar_tan = []
    for number in range(len(layers), 0, -1):
        (W, b), (W_tan, _), a, a_tan = layers[number - 1], layers_tan[number - 1], inputs[number - 1], a_tans[number - 1]
        if number < len(layers):                                    # z_bar = σ'(z_l) a_bar, a_bar until here
            z = dense(a, W, b)
            z_bar, z_bar_tan = sigma.vjp(z, z_bar), sigma.hvp(z, tans[number - 1], z_bar, z_bar_tan)
        a_bar_tan, W_bar_tan, b_bar_tan = dense_hvp(a, W, a_tan, W_tan, z_bar, z_bar_tan)       # a_bar = z_bar W, ...
        z_bar, z_bar_tan = dense_vjp(a, W, z_bar)[0], a_bar_tan
        layers_bar_tan.insert(0, (W_bar_tan, b_bar_tan))
    return z_bar_tan, layers_bar_tan
