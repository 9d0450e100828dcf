"""Programs of `cuda_battery` for perceptrons, a tile of samples a block: small networks, given steps and chosen ones."""
import numpy as np

from refnode import Batch, gradient_batch, losses, solve_batch
from refnode.fields.flow_density import flow_density_field
from refnode.fields.neural import mlp_field

RNG = np.random.default_rng(3)


def network(widths, activation, time_input, count, ts, span, loss, size=0.5):
    field = mlp_field(widths, activation, time_input=time_input)
    return Batch(field, RNG.standard_normal((count, widths[0])), size * RNG.standard_normal(field.p), span, ts, loss)


def flow(widths, activation, time_input, count, ts, loss):
    """Samples with their log-densities, the last state."""
    field = flow_density_field(widths, activation, time_input=time_input)
    return Batch(field, RNG.standard_normal((count, field.n)), RNG.standard_normal(field.p), (0.0, 1.0), ts, loss)


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
    "wide": (network((1, 160, 1), "tanh", False, 2, None, (0.0, 1.0), losses.sum_of_squares()), {"method": "heun", "n_steps": 1}),
    "inside": (network((1, 2, 1), "softplus", True, 3, [[0.125, 0.25], [0.375], [0.5, 0.75]], (0.0, 1.0), losses.sum_of_squares() + LAST),
               {"method": "bosh3", "n_steps": 2}),
    # chosen steps: own intervals, observations at t0, inside steps and at t1, rejections; others with a controller's memory, tstops
    "chosen": (network((1, 2, 1), "softplus", True, 3, [[0.0, 0.25, 0.3125, 1.0], [0.75], [-0.25]],
                       [(0.0, 1.0), (1.0, 0.5), (-0.5, 0.5)], losses.sum_of_squares() + LAST, 2.0),
               {"method": "bosh3", "rtol": 1e-2, "atol": 1e-2, "first_step": 2.0}),
    "PID": (network((2, 3, 2), "tanh", True, 3, [0.25, 0.5], (0.0, 1.0), losses.sum_of_squares(), 1.5),
            {"method": "tsit5", "controller": "PID", "tstops": True, "rtol": 1e-2, "atol": 1e-2}),
    "dop853": (network((2, 3, 2), "sine", False, 2, None, (0.0, 1.0), losses.sum_of_squares()),
               {"method": "dop853", "rtol": 1e-4, "max_step": 0.75}),
    "together": (network((1, 2, 1), "softplus", True, 3, [-0.5, -0.25, 0.375, 0.5], (-0.5, 0.5), losses.sum_of_squares() + LAST, 2.0),
                 {"method": "bosh3", "rtol": 3e-2, "atol": 3e-2, "controller": "PI"}),
    "too many": (network((1, 2, 1), "softplus", True, 3, [0.5, -1.0], (0.5, -1.0), losses.sum_of_squares(), 2.0),
                 {"method": "bosh3", "rtol": 1e-3, "atol": 1e-3, "first_step": 4.0, "max_steps": 3}),
    "flow": (flow((2, 3, 2), "tanh", True, 3, [[0.25, 1.0], [0.0], [0.5]], losses.sum_of_squares() + LAST),
             {"method": "bosh3", "rtol": 1e-1, "atol": 1e-1}),
    "soft flow": (flow((1, 2, 1), "softplus", False, 3, [0.375, 1.0], losses.sum_of_squares()), {"method": "heun", "n_steps": 2}),
}
GIVEN = ("tanh", "softplus", "sine", "time", "linear", "inside")
CHOSEN = ("chosen", "PID", "dop853", "flow", "soft flow")
JOINT = ("together", "PID", "dop853", "too many")


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


def solved_jointly(name, device):
    from cuda_battery import of_solution
    batch, options = NETWORKS[name]
    return of_solution(solve_batch(batch, "joint", device=device, **options))


def pulled_jointly(name, device):
    return pulled(name, device, step_control="joint")


PULLED, PUSHED = {"solve_tiles", "pull_tiles", "slope_tiles", "sum_rows"}, {"solve_tiles", "push_tiles", "slope_tiles"}
TILE_PROGRAMS = {
    **{f"tiles solve {name}": ({"solve_tiles"}, lambda device, name=name: tiled(name, solved, device)) for name in (*GIVEN, *CHOSEN)},
    **{f"tiles discrete {name}": (PULLED, lambda device, name=name: tiled(name, pulled, device)) for name in (*GIVEN, "wide", *CHOSEN)},
    "tiles discrete from theta": (PULLED, lambda device: tiled("softplus", pulled, device, SHARED_BYTES=700)),
    **{f"tiles discrete streamed {name}": (PULLED, lambda device, name=name: tiled(name, pulled, device, SHARED_BYTES=64))
       for name in ("softplus", "chosen", "flow")},
    "tiles tangents streamed inside": (PUSHED, lambda device: tiled("inside", pushed, device, SHARED_BYTES=64)),
    "tiles jointly streamed together": ({"try_tiles", "solve_tiles"}, lambda device: tiled("together", solved_jointly, device, SHARED_BYTES=64)),
    **{f"tiles tangents {name}": (PUSHED, lambda device, name=name: tiled(name, pushed, device))
       for name in ("linear", "time", "inside", "chosen", "soft flow")},
    **{f"tiles jointly {name}": ({"try_tiles", "solve_tiles"}, lambda device, name=name: tiled(name, solved_jointly, device))
       for name in JOINT},
    **{f"tiles discrete jointly {name}": ({"try_tiles"} | PULLED, lambda device, name=name: tiled(name, pulled_jointly, device))
       for name in ("together", "PID")},
}

TILE_MUTANTS = [          # of a kernel, or of a function that it calls
    ("solve_tiles", "for i in range(1, s):", "for i in range(2, s):"),
    ("solve_tiles", "nodes[i], t, h", "0.0, t, h"),
    ("solve_tiles", "y[e], k[0, e], does[e // n] = y1s[e % n, first + e // n]", "y[e], k[0, e], does[e // n] = y1s[e % n, e // n]"),
    ("solve_tiles", "slopes1[e % n, first + e // n], IDLE", "0.0, IDLE"),
    ("solve_tiles", "keep(at, limits, lanes, kept, tile, STEPPED)", "pass"),
    ("solve_tiles.start_function", "guess(rule.rtol", "-guess(rule.rtol"),
    ("solve_tiles.start_function", "tile.k[1, own],", "tile.k[1, :n],"),
    ("solve_tiles.start_function", "if rule.grids.shape[0] == 0:", "if False:"),
    ("solve_tiles.step_functions", "lanes.trials[T_NEXT, j] - lanes.clocks[T, j]", "lanes.trials[T_NEXT, j]"),
    ("solve_tiles.step_functions", "y, y1, k = tile.y[own], tile.y1[own], tile.k[:, own]", "y, y1, k = tile.y[own], tile.y1[own], tile.k[:, :n]"),
    ("solve_tiles.step_functions", "lanes.status[j] = found", "lanes.status[at.first] = found"),
    ("solve_tiles.step_functions", "tile.k[0, e] = tile.y1[e], tile.k[s, e]", "tile.k[0, e] = tile.y1[e], tile.k[0, e]"),
    ("solve_tiles.step_functions", "if tile.does[e // n] == STEPPED:", "if True:"),
    ("solve_tiles.step_functions", "aim_one(rule.control, grid", "aim_one(rule.control, rule.grids[:0, 0]"),
    ("pull_tiles", "any_inside(at, tile.does)", "False"),
    ("pull_tiles", "y_bar[e] += ys_bar[seen, m, j]", "pass"),
    ("pull_tiles", "y_bars[e % n, first + e // n] if status[first + e // n] == RUNNING else 0.0", "0.0"),
    ("pull_tiles.pull_parts", "tile.does[i] = LOOKS_INSIDE", "pass"),
    ("pull_tiles.pull_parts", "tile.y1_bar[e] += ys_bar[seen, m, j]", "pass"),
    ("pull_tiles.pull_parts", "stored.positions[OBSERVATION, j] -= 1", "break"),
    ("pull_tiles.pull_parts", "stored.states[step, m, j], stored.states[step + 1, m, j]", "stored.states[step, m, j], stored.states[step, m, j]"),
    ("pull_tiles.step_transpose", "nodes[i], t, h", "0.0, t, h"),
    ("pull_tiles.step_transpose", "y1_bar[e // d * n + e % d] += shared[x_bar + e // d * width + e % d]", "pass"),
    ("pull_tiles.step_transpose", "pull(at, w, k_bar[i], shared, theta_bar)", "pull(at, w, k_bar[0], shared, theta_bar)"),
    ("pull_tiles.step_transpose", "if i < s - 1:", "if False:"),
    ("pull_tiles.pull_function", "g_bar * w[w_at[0]", "0.0 * w[w_at[0]"),
    ("pull_tiles.pull_function", "for sample in range(1, at.count):", "for sample in range(2, at.count):"),
    ("pull_tiles.pull_function", "gain_at + e % m, part_at + e, e // m * n + d", "gain_at, part_at + e, e // m * n + d"),
    ("solve_tiles.tile_functions", "out[i * n + d] = product(shared[part:part + m]", "out[i * n + d] = product(shared[part_at:part_at + m]"),
    ("push_tiles.tangent_function", "total += shared[part_at + i * m + u]", "pass"),
    ("push_tiles.tangent_function", "push_gains(at.thread, w, theta_tan, shared)", "pass"),
    ("push_tiles", "slope(at, b_row, one, s, w, theta_tan, shared, tile)", "pass"),
    ("push_tiles.push_parts", "ys_tans[row, m, j] = tile.z_tan[e]", "pass"),
    ("push_tiles.push_parts", "stored.positions[OBSERVATION, j] += 1", "break"),
    ("push_tiles.slope_tangent", "tile.y_tan, tile.k_tan, tile.z_tan", "tile.y_tan, tile.k, tile.z_tan"),
    ("try_tiles", "nodes[i], t, h", "0.0, t, h"),
    ("try_tiles", "slopes[e % n, first + e // n]", "slopes[e % n, e // n]"),
    ("try_tiles.error_function", "tile.k[:, own]", "tile.k[:, :n]"),
    ("try_tiles.error_function", "sums[FIRST, j], sums[SECOND, j] =", "sums[SECOND, j], sums[FIRST, j] ="),
    ("solve_tiles.tile_functions", "entry(q, d_out, at.count)", "entry(q, 1, at.count)"),
    ("pull_tiles.pull_function", "entry(q, d_in, count)", "entry(q, 1, count)"),
    ("push_tiles.tangent_function", "entry(q, d_out, at.count)", "entry(q, 1, at.count)"),
    ("pull_tiles", "state_room[block, 1]", "state_room[block, 0]"),
    ("slope_tiles", "times[row, first + e // n], 0.0", "times[0, first + e // n], 0.0"),
    # without a barrier
    ("solve_tiles.tile_functions", "sync()\n        for layer in range(layers):", "for layer in range(layers):"),
    ("try_tiles.tile_functions", "sync()\n\n    def evaluate", "pass\n\n    def evaluate"),
    ("solve_tiles.start_function", "sync()\n        evaluate(at, 0.0", "evaluate(at, 0.0"),
    ("solve_tiles.step_functions", "sync()\n        return any_of", "return any_of"),
    ("solve_tiles.step_functions", "sync()\n        for e in", "for e in"),
    ("pull_tiles.pull_function", "sync()\n        for layer in range(layers - 1", "for layer in range(layers - 1"),
    ("pull_tiles.pull_function", "sync()\n            z_bar, x_bar", "z_bar, x_bar"),
    ("pull_tiles.step_transpose", "sync()\n        for i in range(s):", "for i in range(s):"),
    ("pull_tiles.pull_parts", "sync()\n        return any_of", "return any_of"),
    ("push_tiles.tangent_function", "sync()\n        if trace:\n            push_gains", "if trace:\n            push_gains"),
    ("push_tiles.push_parts", "sync()\n        for i in range(", "for i in range("),
    ("slope_tiles", "sync()\n                evaluate(at, 0.0", "evaluate(at, 0.0"),
]


def with_a_failure():
    """Sample 1 overflows at its start; its neighbours in the tile do not."""
    y0 = np.array([[0.5, -0.25], [0.25, 1.0], [-0.5, 0.75]])
    batch = Batch(SOFT, y0, np.linspace(0.5, 1.5, SOFT.p), (0.0, 1.0), [0.0, 0.375, 1.0], losses.sum_of_squares() + LAST)
    y0[1] = 1e307
    return batch, batch.replace(y0=y0), [0, 2]


def tile_witness(name):
    """What a wrong kernel for tiles is to change: three rounds a launch, chosen steps or given ones."""
    from cuda_battery import at_most, replaced
    from refnode.cuda_device import Kernel
    from refnode.sensitivity import batch_gradient_cuda
    from refnode.solve import batch_cuda
    for batch, _ in NETWORKS.values():
        batch.field.entries.clear()
    with (replaced(batch_cuda, "STEPS_OF_A_LAUNCH", 3), replaced(batch_gradient_cuda, "STEPS_OF_A_LAUNCH", 3),
          replaced(Kernel, "launch", at_most(80, Kernel.launch))):
        if name == "try_tiles":
            return tiled("together", solved_jointly, "cuda")
        chosen, given = {**NETWORKS["chosen"][1], "first_step": None, "max_steps": 8}, {"method": "heun", "n_steps": 2}
        parts = ({"flow": ("soft flow", pushed), "inside": ("inside", pushed)} if name == "push_tiles" else
                 {"flow": ("soft flow", pulled), "chosen": ("chosen", lambda *_: of_failing(chosen)),
                  "given": ("chosen", lambda *_: of_failing(given))})
        where = lambda part: {"SHARED_BYTES": 64} if part in ("given", "inside") else {}               # tiles in global memory
        return {f"{part} {key}": value for part, program in parts.items() for key, value in tiled(*program, "cuda", **where(part)).items()}


def of_failing(options):
    """A gradient beside a fourth sample, over a very long interval: it overflows, or has more steps to take than it may."""
    from cuda_battery import of_gradient
    batch, _ = NETWORKS["chosen"]
    spans, ts = np.concatenate([batch.spans, [(0.0, -1e200)]]), [*np.split(batch.ts, batch.ts_first[1:-1]), [0.0, -50.0]]
    more = Batch(batch.field, np.concatenate([batch.y0, [[0.5]]]), batch.theta, spans, ts, batch.losses[0])
    return of_gradient(gradient_batch(more, device="cuda", on_failure="skip", **options))


def tiles_do_not_depend():
    """Bits do not depend on the samples of a tile, on a failing neighbour, on the run, on launches or on waves."""
    from cuda_battery import of_gradient, replaced, same
    from refnode.sensitivity import batch_gradient_cuda
    from refnode.solve import batch_cuda
    alone, beside, others = with_a_failure()
    how = {"device": "cuda", "on_failure": "skip", "method": "bosh3", "rtol": 1e-1, "atol": 1e-1}
    run = lambda batch, tiles: tiled(None, lambda *_: of_gradient(gradient_batch(batch, **how)), "cuda", TILES=tiles)
    whole, again, mixed, other = run(alone, (2,)), run(alone, (2,)), run(beside, (2,)), run(alone, (4,))
    with replaced(batch_cuda, "STEPS_OF_A_LAUNCH", 1), replaced(batch_gradient_cuda, "STEPS_OF_A_LAUNCH", 1):
        short = run(alone, (2,))
    with replaced(batch_cuda, "FIRST_LANES", 2), replaced(batch_cuda, "FIRST_STEPS", 2), replaced(batch_cuda, "WAVE_BYTES", 1):
        waves = run(alone, (2,))
    per_sample = ("loss", "y0", "t0", "t1", "ts", "status", "n_steps")
    return (same(whole, again) and same(whole, short) and same(whole, waves)
            and all(np.array_equal(other[name], whole[name]) for name in per_sample)
            and all(np.array_equal(mixed[name].reshape(3, -1)[others], whole[name].reshape(3, -1)[others]) for name in per_sample)
            and mixed["status"][1] < 0 and np.isnan(mixed["y0"][1]).all() and np.isfinite(mixed["theta"]).all())


def tile_dot_products():
    """|<y_bar, J x_tan> - <J^T y_bar, x_tan>| over the sum of the products' magnitudes, on the device."""
    from refnode.sensitivity.perceptron_gradient_cuda import TileSweep
    from refnode.solve.options import SolveOptions
    from refnode.solve.perceptron_cuda import TileSamples
    rng, errors = np.random.default_rng(5), []
    for batch, options in (NETWORKS[name] for name in ("tanh", "softplus", "sine", "inside", "chosen", "flow")):
        samples = TileSamples(batch, batch.field, batch.y0, SolveOptions.of(**options), keep=True)
        sweep = TileSweep(samples)
        for wave in samples.waves():
            y0_tans, theta_tan = rng.standard_normal(batch.y0.shape), rng.standard_normal(batch.theta.size)
            ys_tan, y1_tans = sweep.push(wave, y0_tans, theta_tan)
            sweep.ys_bar[:], sweep.y1_bars[:] = rng.standard_normal(sweep.ys_bar.shape), rng.standard_normal(batch.y0.shape)
            sweep.y_bars[:] = sweep.y1_bars
            sweep.pull_wave(wave)
        sweep.finish(summed=False)
        out = [sweep.ys_bar * ys_tan, sweep.y1_bars * y1_tans]
        back = [sweep.y_bars * y0_tans, sweep.theta_sum * theta_tan]
        errors.append(abs(sum(map(np.sum, out)) - sum(map(np.sum, back))) / sum(np.sum(np.abs(part)) for part in out + back))
    return np.array(errors)


def tile_single_precision():
    """Differences of float32 to float64, over the largest entry."""
    from cuda_battery import differences
    return np.array([max(differences(pulled(name, "cuda", dtype="float32"), pulled(name, "cuda")).values())
                     for name in ("tanh", "time", "inside")])
