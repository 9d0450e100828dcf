"""Gradient checks under the names other libraries use: change the import, and read a verdict with its evidence.

    assert_gradient         raises unless a gradient is right
    check_grad              scipy.optimize.check_grad
    gradcheck               torch.autograd.gradcheck
    check_grads             jax.test_util.check_grads
    check_jvp, check_vjp    jax.test_util.check_jvp, check_vjp

PyTorch and JAX are imported when a function of theirs is checked, and not needed otherwise: where no automatic
differentiation stands behind a function of NumPy arrays, its hand-written derivative is passed as ``jvp=`` or
``vjp=``, in the form ``jax.jvp`` and ``jax.vjp`` (and ``torch.func``) have, or to `gradcheck` as ``grad=``:

    jvp(primals, tangents) -> (value, tangent)          vjp(*primals) -> (value, pullback)

What differs from the originals, in all of them:

- Finite differences are extrapolated from many steps, and their error is measured. ``eps`` and ``epsilon`` are
  accepted and not used. A step that was tuned to hide noise has no meaning here.
- A tolerance holds against the largest entry of the gradient (of a row, for a Jacobian), as in `check_gradient`: an
  entry that is zero has no scale of its own.
- Where finite differences are too noisy for the tolerance, or the function is not smooth at the point, the
  verdict is INCONCLUSIVE. It raises like a failure, and says so; ``allow_inconclusive=True`` lets it pass.
- A failure is a `GradientMismatch`, an AssertionError, whose `report` has the numbers.
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.gradcheck.evaluation import length_along, require_callable, typical_size
from refnode.gradcheck.gradient_report import GradientReport
from refnode.gradcheck.jacobian import check_jacobian
from refnode.gradcheck.verdict import check_gradient

__all__ = ["assert_gradient", "check_grad", "check_grads", "check_jvp", "check_vjp", "gradcheck"]

EPSILON = float(np.sqrt(np.finfo(float).eps))    # SciPy's default


def assert_gradient(fun, x, grad, *, allow_inconclusive=False, **options):
    """Raise unless `grad` is the gradient of `fun` at `x`.

    Parameters
    ----------
    fun, x, grad, **options
        As for `refnode.check_gradient`.
    allow_inconclusive : bool
        Whether a reference too uncertain to decide is good enough.

    Returns
    -------
    GradientReport

    Raises
    ------
    GradientMismatch
        The verdict is FAIL or ERROR, or INCONCLUSIVE where that is not allowed.
    """
    report = check_gradient(fun, x, grad, **options)
    report.raise_for_verdict(allow_inconclusive=allow_inconclusive)
    return report


# --- SciPy ----------------------------------------------------------------------------------------

class CheckedError(float):
    """A number, as `scipy.optimize.check_grad` returns it, with the `report` behind it."""

    report: GradientReport

    @property
    def verdict(self):
        return self.report.verdict


def check_grad(func, grad, x0, *args, epsilon=EPSILON, direction="all", rng=None, seed=None, rtol=1e-6, atol=0.0):
    """The 2-norm of the error of a gradient or Jacobian, as `scipy.optimize.check_grad`, with its report.

    The original's number is dominated by the error of its forward differences, about 1e-8; this one by that of
    the gradient under test, so that limits chosen for the original still hold.

    Parameters
    ----------
    func : callable
        func(x0, *args) -> number, or array of shape (m,).
    grad : callable
        grad(x0, *args) -> array of shape (n,), or (m, n).
    x0 : array_like, shape (n,)
    *args
        Handed to func and grad.
    epsilon : float
        Not used.
    direction : "all" or "random"
        Every component, or the derivative along one random direction of a scalar func.
    rng : int or numpy.random.Generator, optional
        Of the random direction. A new one each time where it is None, as in SciPy.
    seed : optional
        SciPy's former name for `rng`.
    rtol, atol : float
        For the verdict of the report.

    Returns
    -------
    CheckedError
        A float, with the attributes `report` and `verdict`; NaN for what is not finite.

    Raises
    ------
    InvalidInputError
        `direction` is something else, or "random" is asked of an array-valued func.
    """
    require_callable(func, "func")
    require_callable(grad, "grad")
    x0 = np.asarray(x0, dtype=np.float64)
    yours = np.asarray(grad(x0.copy(), *args), dtype=np.float64)
    fun = lambda x: func(x, *args)
    if direction == "random":
        report = _along_random(fun, x0, yours, np.random.default_rng(seed if rng is None else rng), rtol, atol)
    elif direction != "all":
        raise InvalidInputError(f"direction: expected 'all' or 'random', found {direction!r}")
    elif np.ndim(fun(x0.copy())) == 0:
        report = check_gradient(fun, x0, yours, rtol=rtol, atol=atol)
    else:
        report = check_jacobian(fun, x0, yours, rtol=rtol, atol=atol)
    error = CheckedError(np.linalg.norm([c.error for c in report.components]) if report.verdict != "ERROR" else np.nan)
    error.report = report
    return error


def _along_random(fun, x0, yours, rng, rtol, atol):
    """The slope of τ ↦ fun(x0 + τ v), v from a normal distribution."""
    if yours.ndim > 1:
        raise InvalidInputError("direction: 'random' needs a scalar func, found a grad of shape " f"{yours.shape}")
    v = rng.standard_normal(x0.shape)
    reach = length_along(v.reshape(-1), typical_size(x0).reshape(-1)) if v.size else 1.0
    return check_gradient(lambda tau: fun(x0 + tau[0] * v), [0.0], [float(np.sum(yours * v))], names=["<grad, v>, v random"],
                          scale=reach, rtol=rtol, atol=atol)


# --- PyTorch --------------------------------------------------------------------------------------

def gradcheck(func, inputs, *, eps=1e-6, atol=1e-5, rtol=1e-3, raise_exception=True, nondet_tol=0.0,
              check_undefined_grad=True, check_grad_dtypes=False, check_batched_grad=False,
              check_batched_forward_grad=False, check_forward_ad=False, check_backward_ad=True, fast_mode=False,
              masked=None, grad=None, jvp=None, vjp=None, seed=0, allow_inconclusive=False):
    """Whether the derivatives of a function are right, as `torch.autograd.gradcheck`.

    Parameters
    ----------
    func : callable
        Tensors -> Tensor or tuple of Tensors; or arrays -> array or tuple of arrays, with `grad`, `jvp` or `vjp`.
    inputs : tensor, array, or tuple of such
        Tensors are varied where they require a gradient, arrays always.
    eps, masked, check_undefined_grad
        Not used. Each row of the Jacobian is pulled from one output alone, the others undefined.
    atol, rtol : float
        Tolerances.
    raise_exception : bool
        Whether a failure raises, or returns False.
    nondet_tol : float
        By how much two backward passes may differ (PyTorch).
    check_grad_dtypes : bool
        Whether gradients must have the types of their inputs (PyTorch).
    check_batched_grad, check_batched_forward_grad : bool
        Not available here.
    check_forward_ad, check_backward_ad : bool
        Which of the two modes to check (PyTorch).
    fast_mode : bool
        Check random combinations of outputs and of inputs, not every entry.
    grad : callable, optional
        grad(*inputs) -> gradient of a scalar func, like the inputs (one array, or a tuple).
    jvp, vjp : callable, optional
        See the module.
    seed : int
        Of the random directions of `fast_mode`.
    allow_inconclusive : bool
        Whether a reference too uncertain to decide is good enough.

    Returns
    -------
    bool
        True, or False where `raise_exception` is false.

    Raises
    ------
    GradientMismatch
        A derivative is wrong, or undecided; for PyTorch a `torch.autograd.gradcheck.GradcheckError` as well.
    InvalidInputError
        There is no derivative to check, or something is asked for that is not available.
    """
    from refnode.foreign_derivatives import array_derivatives, torch_derivatives
    if check_batched_grad or check_batched_forward_grad:
        raise InvalidInputError("check_batched_grad and check_batched_forward_grad test vmap, which is PyTorch's to test: "
                                "call torch.autograd.gradcheck for them")
    if not (check_forward_ad or check_backward_ad):
        raise InvalidInputError("expected at least one of check_forward_ad and check_backward_ad to be True")
    if grad is jvp is vjp is None:
        subject = torch_derivatives(func, inputs, check_forward_ad, check_backward_ad, nondet_tol, check_grad_dtypes)
    else:
        subject = array_derivatives(func, inputs, grad, jvp, vjp)
    report = subject.report(fast_mode, rtol, atol, seed, "gradcheck")
    if report or (allow_inconclusive and report.verdict == "INCONCLUSIVE"):
        return True
    if raise_exception:
        raise subject.error(str(report), report=report)
    return False


# --- JAX ------------------------------------------------------------------------------------------

def check_grads(f, args, order, modes=("fwd", "rev"), atol=None, rtol=None, eps=None, *, jvp=None, vjp=None, seed=0,
                allow_inconclusive=False):
    """Raise unless the derivatives of `f` up to an order are right, as `jax.test_util.check_grads`.

    Parameters
    ----------
    f : callable
        f(*args) -> array, or nested arrays; of JAX unless `jvp` or `vjp` is given.
    args : tuple
        Arrays, or nested arrays.
    order : int
        Derivatives up to this one. Beyond the first they need JAX.
    modes : sequence of "fwd", "rev" and "lin"
        `jax.jvp`, `jax.vjp` and `jax.linearize`.
    atol, rtol : float or dict of dtype to float, optional
        By default 1e-5 relative for float64, 2e-3 for float32, 1e-2 for float16, as in JAX; unlike there they
        do not grow with the number of elements, and the absolute one is 0.
    eps
        Not used.
    jvp, vjp : callable, optional
        Hand-written derivatives of a function of NumPy arrays; see the module.
    seed : int
        Of the random directions: one tangent, and one cotangent for the gradient of all inputs.
    allow_inconclusive : bool
        Whether a reference too uncertain to decide is good enough.

    Raises
    ------
    GradientMismatch
        A derivative is wrong, or undecided.
    InvalidInputError
        There is no derivative to check.
    """
    from refnode.foreign_derivatives import checked_grads
    checked_grads(f, tuple(args), order, modes, jvp, vjp,
                  {"atol": atol, "rtol": rtol, "seed": seed, "allow_inconclusive": allow_inconclusive})


def check_jvp(f, f_jvp, args, atol=None, rtol=None, eps=None, err_msg="", *, seed=0, allow_inconclusive=False):
    """Raise unless `f_jvp(primals, tangents) -> (value, tangent)` is right, as `jax.test_util.check_jvp`.

    Parameters and errors are those of `check_grads`; `f` and `f_jvp` may be of JAX or of NumPy.
    """
    from refnode.foreign_derivatives import checked_jvp
    checked_jvp(f, f_jvp, tuple(args), err_msg or "JVP", atol=atol, rtol=rtol, seed=seed,
                allow_inconclusive=allow_inconclusive)


def check_vjp(f, f_vjp, args, atol=None, rtol=None, eps=None, err_msg="", *, seed=0, allow_inconclusive=False):
    """Raise unless `f_vjp(*primals) -> (value, pullback)` is right, as `jax.test_util.check_vjp`.

    Parameters and errors are those of `check_grads`; `f` and `f_vjp` may be of JAX or of NumPy.
    """
    from refnode.foreign_derivatives import checked_vjp
    checked_vjp(f, f_vjp, tuple(args), err_msg or "VJP", atol=atol, rtol=rtol, seed=seed,
                allow_inconclusive=allow_inconclusive)
