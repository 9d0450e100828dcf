"""Arrays of other libraries on a GPU: which are taken, which are refused and how. What kernels make of them: `test_cuda.py`."""
import numpy as np
import pytest

from batches import BATCHES, LV
from cuda_resident import Lying, Packed
from refnode import Batch, InvalidInputError, InvalidTypeError, Problem, cuda_device, gradient, gradient_batch, losses, solve, solve_batch
from refnode.cuda_arrays import DeviceRows, taken

Y0 = np.array([[1.0, 0.5], [0.75, 1.25]])
THETA = np.array([1.5, 1.0, 3.0, 1.0])


def lying_batch(y0=Y0, theta=THETA, loss=None, **how):
    return Batch(LV, Lying(y0), Lying(theta), loss=loss or losses.sum_of_squares(), **how)


def test_an_array_on_a_gpu_stays_where_it_is():
    """Known by either protocol; its memory is the caller's."""
    for foreign in (Lying(Y0), Packed(Y0)):
        rows = taken("y0", foreign)
        assert isinstance(rows, DeviceRows) and rows.shape == (2, 2) and rows.dtype == np.float64
        assert rows._found[0]["data"][0] == Y0.ctypes.data
    batch = lying_batch()
    assert len(batch) == 2 and batch.on_device and "2 samples" in repr(batch)
    assert taken("y0", batch.y0) is batch.y0


def test_dlpack_on_the_host_is_a_numpy_array():
    found = taken("y0", Packed(Y0, (1, 0)))
    assert isinstance(found, np.ndarray) and found.ctypes.data == Y0.ctypes.data
    np.testing.assert_array_equal(Batch(LV, Packed(Y0, (1, 0)), THETA).y0, Y0)
    np.testing.assert_array_equal(Problem(LV, Packed(Y0[0].copy(), (1, 0)), THETA).y0, Y0[0])


class Tensor:
    """As PyTorch's tensor that requires its gradient."""

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("detach it first")


@pytest.mark.parametrize("foreign, error, message", [
    (Lying(Y0.astype(np.int64)), InvalidTypeError, "dtype float64 or float32, found int64"),
    (Lying(Y0.astype(">f8")), InvalidTypeError, "found >f8"),
    (Packed(Y0.astype(np.complex128)), InvalidTypeError, "complex128"),
    (Lying(Y0, strides=(8, 16)), InvalidInputError, "contiguous"),
    (Packed(Y0.T), InvalidInputError, "contiguous"),
    (Lying(Y0, mask=Lying(Y0)), InvalidInputError, "masked"),
    (Lying(np.zeros((2, 2, 2))), InvalidInputError, "one row a sample"),
    (Lying(np.zeros(2)), InvalidInputError, r"shape \(B, n\)"),
    (Lying(np.zeros((0, 2))), InvalidInputError, "no rows"),
    (Lying(np.zeros((2, 3))), InvalidInputError, "2 entries a sample"),
    (Packed(Y0, (10, 0)), InvalidTypeError, "kind 10"),
    (Tensor(), InvalidTypeError, "detach"),
])
def test_what_kernels_cannot_read_is_refused(foreign, error, message):
    with pytest.raises(error, match=message):
        Batch(LV, foreign, THETA)


def test_rows_of_theta_must_be_those_of_y0():
    with pytest.raises(InvalidInputError, match="one row for each of the 2 samples"):
        Batch(LV, Y0, Lying(np.ones((3, 4))))
    with pytest.raises(InvalidInputError, match="one-dimensional"):
        Problem(LV, Lying(Y0), THETA)


def test_a_read_only_array_is_welcome():
    """Inputs are never written."""
    frozen = Y0.copy()
    frozen.flags.writeable = False
    assert taken("y0", Lying(frozen)).shape == (2, 2)


@pytest.mark.parametrize("call", [
    lambda: solve_batch(lying_batch()), lambda: gradient_batch(lying_batch()),
    lambda: solve_batch(lying_batch(), "joint"), lambda: gradient_batch(lying_batch(), device="auto"),
    lambda: solve(Problem(LV, Lying(Y0[0]), THETA)), lambda: solve(Problem(LV, Y0[0], Lying(THETA)), device="auto"),
    lambda: gradient(Problem(LV, Lying(Y0[0]), THETA, loss=losses.sum_of_squares())),
    lambda: gradient(Problem(LV, Lying(Y0[0]), THETA, loss=losses.sum_of_squares()), device="auto")])
def test_the_cpu_refuses_them(call, monkeypatch):
    monkeypatch.setattr(cuda_device, "missing", lambda: "because of the weather")
    with pytest.raises(InvalidInputError, match='lies on a GPU, and device="cpu" takes arrays on the host'):
        call()


def test_what_reads_single_samples_on_the_host_says_so():
    for use in (lambda batch: batch[0], lambda batch: batch.take([0]), lambda batch: batch.joint(), lambda batch: np.asarray(batch.y0)):
        with pytest.raises(InvalidInputError, match="y0 lies on a GPU"):
            use(lying_batch())


def test_what_a_gpu_cannot_do_with_them_is_refused(monkeypatch):
    monkeypatch.setattr(cuda_device, "missing", lambda: None)
    monkeypatch.setattr("refnode.cuda_arrays.array_at", lambda interface, owner: HostView(owner.array))
    cost = losses.sum_of_squares() + losses.terminal(np.sum, np.ones_like)
    ragged = [[0.5], [0.25, 0.5]]
    for call, message in (
            (lambda: solve_batch(lying_batch(), device="cuda", dtype="float32"), "dtype='float64'"),
            (lambda: gradient_batch(lying_batch(Y0.astype(np.float32)), device="cuda"), "y0 on the GPU has dtype float32"),
            (lambda: gradient_batch(lying_batch(loss=cost), device="cuda"), "on_device; found Sum"),
            (lambda: gradient_batch(lying_batch(), "discrete_forward", device="cuda"), "'discrete', 'checkpointed'"),
            (lambda: solve_batch(lying_batch(), device="cuda", atol=0.0), "atol must be > 0"),
            (lambda: solve_batch(lying_batch(ts=ragged), device="cuda"), "as many times for each sample")):
        with pytest.raises(InvalidInputError, match=message):
            call()


class HostView(np.ndarray):
    def __new__(cls, array):
        return array.view(cls)

    def copy_to_host(self):
        return np.array(self)


def test_a_loss_on_the_device_is_for_such_batches():
    with pytest.raises(InvalidInputError, match="lies on a GPU"):
        gradient_batch(BATCHES["predators"].replace(loss=losses.on_device(lambda y, samples: None)))


def test_functions_are_tried_on_the_first_row_even_if_it_is_not_finite(monkeypatch):
    monkeypatch.setattr("refnode.cuda_arrays.array_at", lambda interface, owner: HostView(owner.array))
    first = lying_batch(np.array([[np.nan, 0.5], [1.0, 2.0]])).first
    np.testing.assert_array_equal(first.y0, [1.0, 0.5])
    np.testing.assert_array_equal(first.theta, THETA)
