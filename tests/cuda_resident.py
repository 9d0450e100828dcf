"""Programs of `cuda_battery` for arrays that lie on the device: results beside those from the host."""
import numpy as np

from batches import BATCHES
from refnode import Batch, gradient, gradient_batch, losses, solve, solve_batch
from refnode.cuda_device import cuda_module, is_simulated

MOVED = {"rows_to_lanes", "lanes_to_rows"}


class Lying:
    """A foreign array: its interface and no more."""

    def __init__(self, array, **changes):
        self.array, self.changes = array, changes

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__array_interface__, "version": 3, **self.changes}


class Packed:
    """A foreign array with DLPack alone."""

    def __init__(self, array, device=(2, 0)):
        self.array, self.device = array, device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **_):
        return self.array.__dlpack__()


def there(array, kind=Lying):
    """A C-contiguous copy on the device, as another library would have it."""
    array = np.array(array, order="C")
    return kind(array) if is_simulated() else cuda_module().to_device(array)


def here(array):
    """A result on the host; it must have been on the device, and say so."""
    assert hasattr(array, "__cuda_array_interface__")
    return array.copy_to_host()


def alike():
    """Samples with as many observations each: parameters of their own, an interval backwards, one sample that rests."""
    batch = BATCHES["predators"]
    spans = np.array([[0.0, 4.0], [0.0, 1.0], [2.0, 0.5], [1.0, 1.0], [0.0, 6.0], [-1.0, 3.0]])
    ts = [t0 + (t1 - t0) * np.array([0.0, 0.375, 1.0]) for t0, t1 in spans]
    return Batch(batch.field, batch.y0, batch.theta, spans, ts, losses.sum_of_squares(np.ones((2, 3))))


def shared():
    """Theta shared by 5 samples."""
    batch = BATCHES["oscillators"]
    return batch.replace(loss=losses.linear(np.arange(6.0).reshape(2, 3)))


def moved(batch, kind=Lying):
    return batch.replace(y0=there(batch.y0, kind), theta=there(batch.theta, kind))


def solved(batch, device, **options):
    found = solve_batch(moved(batch) if device == "cuda" else batch, device=device, **options)
    y, y1 = (here(found.y), here(found.y1)) if device == "cuda" else (found.y, found.y1)
    return {"y": y, "y1": y1, "status": found.status, "n_steps": found.n_steps}


def pulled(batch, device, kind=Lying, **options):
    found = gradient_batch(moved(batch, kind) if device == "cuda" else batch, device=device, **options)
    take = here if device == "cuda" else np.asarray
    return {**{name: take(getattr(found, name)) for name in ("loss", "y0", "theta")}, "total": np.array(found.total),
            **{name: np.asarray(getattr(found, name)) for name in ("t0", "t1", "ts", "status")}}


def by_function(batch, device):
    """A loss of the user's, of arrays on the device: the sum of cubes."""
    def cubes(y, samples):
        host = y.copy_to_host()
        return there(np.sum(host**3, axis=(1, 2))), there(3.0 * host**2)
    cubed = losses.terminal(lambda y1: np.sum(y1**3), lambda y1: 3.0 * y1**2)
    batch = batch.replace(ts=None, loss=losses.on_device(cubes) if device == "cuda" else cubed)
    found = pulled(batch, device)
    return {name: found[name] for name in ("loss", "y0", "theta", "t0", "status")}


def one(device):
    """`solve` and `gradient` of a problem."""
    problem = alike()[0]
    if device == "cuda":
        problem = problem.replace(y0=there(problem.y0), theta=there(problem.theta))
    take = here if device == "cuda" else np.asarray
    solution, found = solve(problem, device=device), gradient(problem, device=device)
    return {"y": take(solution.y), "y1": take(solution.y1), "y0": take(found.y0), "theta": take(found.theta),
            "loss": np.array(found.loss), "t1": np.array(found.t1), "observed": take(found.solution.y)}


def partly(device):
    """Only y0 on the device."""
    batch = shared()
    found = gradient_batch(batch.replace(y0=there(batch.y0)) if device == "cuda" else batch, device=device)
    take = here if device == "cuda" else np.asarray
    return {name: take(getattr(found, name)) for name in ("y0", "theta")}


RESIDENT_PULL = MOVED | {"seed_lanes", "time_lanes"}
RESIDENT_PROGRAMS = {
    "resident solve": (MOVED | {"integrate_lanes"}, lambda device: solved(alike(), device)),
    "resident discrete": (RESIDENT_PULL | {"integrate_lanes_kept", "pull_lanes"}, lambda device: pulled(alike(), device)),
    "resident shared theta": (RESIDENT_PULL | {"integrate_lanes_kept", "pull_lanes", "sum_rows"},
                              lambda device: pulled(shared(), device, kind=Packed)),
    "resident checkpointed": (RESIDENT_PULL | {"integrate_lanes_placed", "pull_lanes_placed", "sum_rows"},
                              lambda device: pulled(shared(), device, sensitivity="checkpointed", checkpoints=3)),
    "resident function": (MOVED | {"time_lanes", "integrate_lanes_kept", "pull_lanes"}, lambda device: by_function(alike(), device)),
    "resident problem": (RESIDENT_PULL | {"integrate_lanes", "integrate_lanes_kept", "pull_lanes"}
                         | {"sum_rows"}, one),
    "resident y0 alone": (RESIDENT_PULL | {"integrate_lanes_kept", "pull_lanes", "sum_rows"}, partly),
}

RESIDENT_MUTANTS = [
    ("rows_to_lanes", "rows[i, m, k]", "rows[0, m, k]"),
    ("lanes_to_rows", "placed[k, m, i] if", "placed[k, 0, i] if"),
    ("lanes_to_rows", "if k < seen[i]", "if k <= seen[i]"),
    ("seed_lanes", "2.0 * square * residual", "square * residual"),
    ("seed_lanes", "centre[k, m]", "0.0"),
    ("sum_rows", "if ended[r] == FINISHED", "if True"),
    ("sum_rows", "c * chunk - first", "c * chunk"),
    ("sum_rows", "range(max(", "range(1 + max("),
]


def resident_witness():
    """What a wrong kernel for resident arrays is to change: waves of two, chunks of two, a sample that fails in the second chunk."""
    from cuda_battery import replaced
    from refnode.sensitivity import resident_gradient_cuda
    from refnode.solve import batch_cuda
    batch = BATCHES["predators"].take([0, 1, 4, 0, 1]).replace(t_span=(0.0, 1.0), ts=[0.25, 0.5, 1.0])
    y0 = batch.y0.copy()
    y0[3] = np.nan                                              # which the host would refuse
    batch = Batch(batch.field, there(y0), there(batch.theta[0]), (0.0, 1.0), [0.25, 0.5, 1.0],
                  losses.sum_of_squares(np.ones((2, 3))))
    with (replaced(batch_cuda, "FIRST_LANES", 2), replaced(batch_cuda, "WAVE_BYTES", 2**13),
          replaced(resident_gradient_cuda, "CHUNK", 2)):
        found = gradient_batch(batch, device="cuda", on_failure="skip")
        with replaced(batch_cuda, "WAVE_BYTES", 2**30):
            whole = gradient_batch(batch, device="cuda", on_failure="skip")
    same = all(np.array_equal(here(getattr(found, name)), here(getattr(whole, name)), equal_nan=True)
               for name in ("loss", "y0", "theta"))
    return {"y": here(found.solution.y), **{name: here(getattr(found, name)) for name in ("loss", "y0", "theta")},
            "waves": np.array(float(same))}
