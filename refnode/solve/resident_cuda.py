"""Batches whose arrays lie on a GPU: read there, and given back there. The host sees times, counts and statuses alone.

A user's array holds a sample a row, (B, n); kernels want the lane last. The kernels here put one into the other.
"""
import numpy as np

from refnode.cuda_arrays import result_array
from refnode.cuda_device import Kernel, cuda_module, device_array, to_device
from refnode.errors import InvalidInputError
from refnode.solve.samples import BatchSolution, Samples
from refnode.solve.batch_cuda import DeviceSamples
from refnode.solve.integrate import EVALUATIONS, REJECTED, SEEN, STEPS

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place


# --- kernels --------------------------------------------------------------------------------------

@Kernel
def rows_to_lanes(on_device, field, sizes):
    """placed[k, m, i] = rows[i, m, k]."""
    def lanes(rows, placed):
        i = cuda.grid(1)
        if i < placed.shape[2]:
            for k in range(placed.shape[0]):
                for m in range(placed.shape[1]):
                    placed[k, m, i] = rows[i, m, k]
    return lanes


@Kernel
def lanes_to_rows(on_device, field, sizes):
    """rows[i, m, k] = placed[k, m, i] for k < seen[i], NaN for the rest."""
    def lanes(seen, placed, rows):
        i = cuda.grid(1)
        if i < rows.shape[0]:
            for m in range(rows.shape[1]):
                for k in range(rows.shape[2]):
                    rows[i, m, k] = placed[k, m, i] if k < seen[i] else np.nan
    return lanes


# --- the host's side ------------------------------------------------------------------------------

class Resident:
    """What `DeviceSamples` do otherwise where arrays stay on the device."""

    def make_results(self):
        batch, (count, size) = self.batch, self.y0s.shape
        if not batch.same_count:
            raise InvalidInputError("ts must have as many times for each sample where y0 or theta lies on a GPU: the states "
                                    "come back as one array")
        super().make_results()
        self.y1s = result_array((count, size), self.real_of_arrays())
        self.ys = result_array((count, size, int(batch.ts_first[1])), self.real_of_arrays())

    def real_of_arrays(self):
        """The numbers of the arrays on the device."""
        batch = self.batch
        return next(array.dtype.name for array in (batch.y0, batch.theta) if getattr(array, "on_device", False))

    def lanes_of(self, rows, own):
        """As in `DeviceSamples`, of an array on the device too."""
        if not getattr(rows, "on_device", False):
            return super().lanes_of(rows, own)
        return self.placed(rows.view[own].reshape(own.stop - own.start, rows.shape[1], 1))[0]

    def placed(self, rows):
        """(K, n, lanes) of (lanes, n, K)."""
        out = device_array(rows.shape[::-1], rows.dtype)
        if 0 not in rows.shape:
            rows_to_lanes.launch(self.field, self.sizes, rows.shape[0], (rows, out))
        return out

    def put_rows(self, placed, seen, rows):
        """The other way, with ``seen`` of K in each lane; (n, lanes) goes to (lanes, n)."""
        if len(placed.shape) == 2:
            placed, rows = placed.reshape(1, *placed.shape), rows.reshape(*rows.shape, 1)
        if 0 not in rows.shape:
            lanes_to_rows.launch(self.field, self.sizes, rows.shape[0], (to_device(seen), placed, rows))

    def keep_states(self, wave):
        own = slice(wave.start, wave.stop)
        self.status[own] = wave.ended
        self.put_rows(wave.y1s, np.ones(wave.lanes, dtype=np.int64), self.y1s[own])
        self.put_rows(wave.ys, self.counts[own, SEEN], self.ys[own])

    def of_sample(self, i):
        """As in `Samples`: copies, for the message about one sample."""
        row = lambda rows: (rows.view[i] if len(rows) > 1 else rows.view[0]).copy_to_host()
        host = lambda rows: row(rows) if getattr(rows, "on_device", False) else rows[min(i, len(rows) - 1)]
        return host(self.y0s), self.y1s[i].copy_to_host(), self.ys[i].copy_to_host().T, host(self.thetas)

    def solution(self):
        """The `BatchSolution`, whose states stay on the device."""
        counts = self.counts
        return BatchSolution(self.ys, self.y1s, self.status, counts[:, EVALUATIONS], counts[:, STEPS], counts[:, REJECTED],
                             "per_sample", None, self.one_solution)

    def one_solution(self, i):
        """The `Solution` of sample i; all of its observations, NaN where it failed before."""
        solution = Samples.one_solution(self, i)
        solution.y, solution.y1 = self.ys[i], self.y1s[i]
        return solution


class ResidentSamples(Resident, DeviceSamples):
    """`DeviceSamples` that stay on the device."""
