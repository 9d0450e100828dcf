"""Programs of `cuda_battery` for perceptrons, a tile of samples a block: small networks, given steps."""
import numpy as np

from refnode import Batch, gradient_batch, losses, solve_batch
from refnode.fields.neural import mlp_field

RNG = np.random.default_rng(3)


def network(widths, activation, time_input, count, ts, span, loss):
    field = mlp_field(widths, activation, time_input=time_input)
    return Batch(field, RNG.standard_normal((count, widths[0])), 0.5 * RNG.standard_normal(field.p), span, ts, loss)


SOFT = mlp_field((2, 3, 2), "softplus", time_input=True)
LAST = losses.terminal(lambda y1: np.sum(y1**3), lambda y1: 3.0 * y1**2)
NETWORKS = {            # a batch and steps: two observations at one time, times downwards, no hidden layer, a step of length zero
    "tanh": (network((2, 3, 4, 2), "tanh", False, 3, None, (0.0, 1.0), losses.sum_of_squares() + LAST), {"method": "heun", "n_steps": 2}),
    "softplus": (network((2, 4, 2), "softplus", True, 3, [0.0, 0.5, 0.5, 1.0], (0.0, 1.0), losses.sum_of_squares()),
                 {"method": "midpoint", "n_steps": 2}),
    "sine": (network((3, 4, 3), "sine", True, 3, [1.0, -0.5], (1.0, -0.5), losses.sum_of_squares()),
             {"method": "dopri5", "n_steps": 1}),
    "time": (network((1, 2, 1), "softplus", True, 3, [0.25, 0.5], (0.25, 0.5), losses.sum_of_squares()), {"method": "heun", "n_steps": 1}),
    "linear": (network((2, 2), "tanh", False, 2, [0.5], (0.5, 0.5), losses.sum_of_squares()), {"method": "bosh3", "n_steps": 1}),
}


def tiled(name, call, device, **changes):
    """What a program finds with two samples a tile and two blocks, so that tiles are not full and a block has several."""
    from cuda_battery import replaced
    if device == "cpu":
        return call(name, device)
    from refnode.solve import perceptron_tile_cuda as tile_cuda
    with (replaced(tile_cuda, "TILES", changes.get("TILES", (2,))), replaced(tile_cuda, "BLOCKS", changes.get("BLOCKS", 2)),
          replaced(tile_cuda, "LEAST_TILE", 1),
          replaced(tile_cuda, "SHARED_BYTES", changes.get("SHARED_BYTES", tile_cuda.SHARED_BYTES))):
        return call(name, device)


def solved(name, device):
    from cuda_battery import of_solution
    batch, options = NETWORKS[name]
    return of_solution(solve_batch(batch, device=device, **options))


def pulled(name, device, sensitivity="discrete", **more):
    from cuda_battery import of_gradient
    batch, options = NETWORKS[name]
    return of_gradient(gradient_batch(batch, sensitivity, device=device, **options, **more))


def pushed(name, device):
    return pulled(name, device, "discrete_forward")


PULLED, PUSHED = {"solve_tiles", "pull_tiles", "sum_rows"}, {"solve_tiles", "push_tiles"}
TILE_PROGRAMS = {
    **{f"tiles solve {name}": ({"solve_tiles"}, lambda device, name=name: tiled(name, solved, device)) for name in NETWORKS},
    **{f"tiles discrete {name}": (PULLED, lambda device, name=name: tiled(name, pulled, device)) for name in NETWORKS},
    "tiles discrete from theta": (PULLED, lambda device: tiled("softplus", pulled, device, SHARED_BYTES=900)),
    **{f"tiles tangents {name}": (PUSHED, lambda device, name=name: tiled(name, pushed, device)) for name in ("linear", "time")},
}

TILE_MUTANTS = [
    ("solve_tiles", "for i in range(1, s):", "for i in range(2, s):"),
    ("solve_tiles", "t + nodes[i] * h", "t"),
    ("solve_tiles", "y0s[first * n + e]", "y0s[e]"),
    ("solve_tiles", "shared[k_at + e] = shared[last_at + e]", "pass"),
    ("solve_tiles", "status[first + e], components", "status[first], components"),
    ("pull_tiles", "t + nodes[i] * h", "t"),
    ("pull_tiles", "k_bar_at + i * states_of_tile, theta_bar", "k_bar_at, theta_bar"),
    ("pull_tiles", "left = observed(thread, first, count, 0, left, seen_at, ys_bar, status, shared)", "pass"),
    ("pull_tiles", "stage_vjp(thread, count, i, h, a_rows[i], x_bar, shared)", "sync()"),
    ("pull_tiles", "if i < s - 1:", "if False:"),
    ("pull_tiles", "y_bars[first * n + e] if status[first + e // n] == FINISHED else 0.0", "0.0"),
    ("push_tiles", "stage_jvp(thread, count, b_row, s, h, shared, y_tan_at)", "pass"),
    ("push_tiles", "seen_at[seen] == j", "False"),
]


def with_a_failure():
    """Sample 1 overflows in its first step; its neighbours in the tile do not."""
    y0 = np.array([[0.5, -0.25], [0.25, 1.0], [-0.5, 0.75]])
    batch = Batch(SOFT, y0, np.linspace(0.5, 1.5, SOFT.p), (0.0, 1.0), [0.0, 1.0], losses.sum_of_squares() + LAST)
    y0[1] = 1e307
    return batch, batch.replace(y0=y0), [0, 2]


def tile_witness(name):
    """What a wrong kernel for tiles is to change."""
    from cuda_battery import of_gradient
    if name == "push_tiles":
        NETWORKS["time"][0].field.entries.clear()
        return tiled("time", pushed, "cuda")
    SOFT.entries.clear()
    _, batch, _ = with_a_failure()
    how = {"device": "cuda", "on_failure": "skip", "method": "bosh3", "n_steps": 1}
    return tiled(name, lambda *_: of_gradient(gradient_batch(batch, **how)), "cuda")


def tiles_do_not_depend():
    """Bits do not depend on the samples of a tile, on a failing neighbour, or on the run."""
    from cuda_battery import of_gradient, same
    alone, beside, others = with_a_failure()
    how = {"device": "cuda", "on_failure": "skip", "method": "bosh3", "n_steps": 1}
    run = lambda batch, tiles: tiled(None, lambda *_: of_gradient(gradient_batch(batch, **how)), "cuda", TILES=tiles)
    whole, again, mixed = run(alone, (2,)), run(alone, (2,)), run(beside, (2,))
    other = run(alone, (4,))
    per_sample = ("loss", "y0", "t0", "t1", "ts", "status", "n_steps")
    return (same(whole, again) and all(np.array_equal(other[name], whole[name]) for name in per_sample)
            and all(np.array_equal(mixed[name].reshape(3, -1)[others], whole[name].reshape(3, -1)[others]) for name in per_sample)
            and mixed["status"][1] < 0 and np.isnan(mixed["y0"][1]).all() and np.isfinite(mixed["theta"]).all())


def tile_dot_products():
    """|<y_bar, J x_tan> - <J^T y_bar, x_tan>| over the sum of the products' magnitudes, on the device."""
    from refnode.sensitivity.perceptron_gradient_cuda import TileSweep
    from refnode.solve.options import SolveOptions
    from refnode.solve.perceptron_cuda import TileSamples
    rng, errors = np.random.default_rng(5), []
    for batch, options in list(NETWORKS.values())[:3]:
        samples = TileSamples(batch, batch.field, batch.y0, SolveOptions.of(**options), keep=True)
        samples.run_forward()
        sweep, (count, n) = TileSweep(samples), batch.y0.shape
        y0_tans, theta_tan = rng.standard_normal(batch.y0.shape), rng.standard_normal(batch.theta.size)
        ys_tans, y1_tans = sweep.push(y0_tans, theta_tan)
        sweep.ys_bar[:], sweep.y1_bars[:] = rng.standard_normal(sweep.ys_bar.shape), rng.standard_normal(batch.y0.shape)
        sweep.pull_all()
        out = [sweep.ys_bar.reshape(count, -1, n).transpose(1, 0, 2) * ys_tans, sweep.y1_bars * y1_tans]
        back = [sweep.y_bars * y0_tans, sweep.theta_sum * theta_tan]
        errors.append(abs(sum(map(np.sum, out)) - sum(map(np.sum, back))) / sum(np.sum(np.abs(part)) for part in out + back))
    return np.array(errors)


def tile_single_precision():
    """Differences of float32 to float64, over the largest entry."""
    from cuda_battery import differences
    return np.array([max(differences(pulled(name, "cuda", dtype="float32"), pulled(name, "cuda")).values())
                     for name in ("tanh", "time")])
