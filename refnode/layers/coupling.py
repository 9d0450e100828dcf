"""The affine coupling layer: some components pass, and scale and shift the others. Its inverse is exact.

    k = the components that pass, c = those that change
    h = tanh(W1 x_k + b1),  (r, t) = W2 h + b2,  e = tanh r,  z_k = x_k,  z_c = x_c exp(e) + t,  log|det| = Σ e

NumPy forms, valid for complex arrays; `keep` is a boolean mask (d,) of the components that pass.

References
----------
Dinh, Sohl-Dickstein & Bengio, Density estimation using Real NVP, ICLR 2017.
"""
import numpy as np

from refnode.layers.dense import dense, dense_jvp, dense_vjp


def coupling_shapes(keep, width):
    """Shapes of the parameters."""
    kept, changed = int(np.sum(keep)), int(np.sum(~keep))
    return {"W1": (width, kept), "b1": (width,), "W2": (2 * changed, width), "b2": (2 * changed,)}


def coupling_parts(keep, x, arrays):
    """h, the log-scales e and the shifts t."""
    h = np.tanh(dense(x[:, keep], arrays["W1"], arrays["b1"]))
    r, t = np.split(dense(h, arrays["W2"], arrays["b2"]), 2, axis=1)
    return h, np.tanh(r), t


def coupling(keep, x, arrays):
    """z (batch, d) and log|det dz/dx| (batch,) of x (batch, d)."""
    _, e, t = coupling_parts(keep, x, arrays)
    z = x.astype(e.dtype)
    z[:, ~keep] = x[:, ~keep] * np.exp(e) + t
    return z, e.sum(axis=1)


def coupling_jvp(keep, x, arrays, x_tan, arrays_tan):
    """Tangent of `coupling`: (z_tan, log_det_tan)."""
    h, e, _ = coupling_parts(keep, x, arrays)
    h_tan = (1.0 - h**2) * dense_jvp(x[:, keep], arrays["W1"], x_tan[:, keep], arrays_tan["W1"], arrays_tan["b1"])
    r_tan, t_tan = np.split(dense_jvp(h, arrays["W2"], h_tan, arrays_tan["W2"], arrays_tan["b2"]), 2, axis=1)
    e_tan = (1.0 - e**2) * r_tan
    z_tan = x_tan.copy()
    z_tan[:, ~keep] = (x_tan[:, ~keep] + x[:, ~keep] * e_tan) * np.exp(e) + t_tan
    return z_tan, e_tan.sum(axis=1)


def coupling_vjp(keep, x, arrays, z_bar, log_det_bar):
    """Transpose of `coupling_jvp`: (x_bar, the cotangents of ``arrays`` by name)."""
    h, e, _ = coupling_parts(keep, x, arrays)
    scaled_bar = z_bar[:, ~keep] * np.exp(e)                    # z_c = x_c exp(e) + t
    x_bar = z_bar.copy()
    x_bar[:, ~keep] = scaled_bar
    e_bar = scaled_bar * x[:, ~keep] + log_det_bar[:, None]     # log_det = Σ e
    out_bar = np.concatenate([(1.0 - e**2) * e_bar, z_bar[:, ~keep]], axis=1)               # e = tanh r; (r, t) = out
    h_bar, W2_bar, b2_bar = dense_vjp(h, arrays["W2"], out_bar)
    kept_bar, W1_bar, b1_bar = dense_vjp(x[:, keep], arrays["W1"], (1.0 - h**2) * h_bar)
    x_bar[:, keep] += kept_bar
    return x_bar, {"W1": W1_bar, "b1": b1_bar, "W2": W2_bar, "b2": b2_bar}


def coupling_inverse(keep, z, arrays):
    """x (batch, d) with `coupling` (x) = z: x_c = (z_c - t) exp(-e)."""
    _, e, t = coupling_parts(keep, z, arrays)
    x = z.copy()
    x[:, ~keep] = (z[:, ~keep] - t) * np.exp(-e)
    return x
