"""`refnode.testing`: the drop-ins take what the originals take, pass what is right and catch what is wrong."""
import inspect
import sys
import types

import numpy as np
import pytest
import scipy.optimize

from refnode.errors import GradientMismatch, InvalidInputError, InvalidTypeError
from refnode.gradcheck.jacobian import check_jacobian
from refnode.gradcheck.nesting import nest_of
from refnode.testing import assert_gradient, check_grad, check_grads, check_jvp, check_vjp, gradcheck

RNG = np.random.default_rng(5)
W, B, X = RNG.standard_normal((2, 3)), RNG.standard_normal(2), RNG.standard_normal(3)


def layer(x, b):
    return np.tanh(W @ x) + b


def layer_vjp(x, b, wrong=1.0):
    """(value, pullback), as jax.vjp gives them."""
    slope = 1 - np.tanh(W @ x) ** 2
    return layer(x, b), lambda w: (wrong * W.T @ (slope * w), w)


def layer_jvp(primals, tangents, wrong=1.0):
    (x, b), (v, c) = primals, tangents
    return layer(x, b), wrong * (1 - np.tanh(W @ x) ** 2) * (W @ v) + c


def layer_jac():
    return (1 - np.tanh(W @ X) ** 2)[:, None] * W


def bowl(x, a=1.0):
    return a * np.sin(x[0]) * x[1] ** 2 + x[2]


def bowl_grad(x, a=1.0):
    return a * np.array([np.cos(x[0]) * x[1] ** 2, 2 * np.sin(x[0]) * x[1], 1 / a])


def parameters_of(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


# --- assert_gradient ------------------------------------------------------------------------------

def test_assert_gradient():
    assert assert_gradient(bowl, X, bowl_grad).verdict == "PASS"
    with pytest.raises(GradientMismatch, match="FAIL") as caught:
        assert_gradient(bowl, X, lambda x: 2 * bowl_grad(x), names=["a", "b", "c"])
    assert caught.value.report.worst.name in "abc" and "yours = 2 × reference" in str(caught.value)
    kinked = lambda x: np.abs(x - X).sum()
    with pytest.raises(GradientMismatch, match="INCONCLUSIVE"):
        assert_gradient(kinked, X, np.zeros(3))
    assert assert_gradient(kinked, X, np.zeros(3), allow_inconclusive=True).verdict == "INCONCLUSIVE"


# --- SciPy ----------------------------------------------------------------------------------------

def test_check_grad_takes_what_scipy_takes():
    ours = parameters_of(check_grad)
    for parameter in parameters_of(scipy.optimize.check_grad):
        assert parameter in ours


@pytest.mark.parametrize("factor", [1.0, 1.0 + 1e-5, 2.0])
def test_check_grad_is_the_norm_of_the_error(factor):
    """SciPy's forward differences are good to 1e-7 here, ours to 1e-12."""
    grad = lambda x, a: factor * bowl_grad(x, a)
    ours, theirs = check_grad(bowl, grad, X, 3.0), scipy.optimize.check_grad(bowl, grad, X, 3.0)
    truth = np.linalg.norm((factor - 1.0) * bowl_grad(X, 3.0))
    assert ours == pytest.approx(truth, abs=1e-11) and theirs == pytest.approx(truth, abs=1e-6)
    assert isinstance(ours, float) and ours.verdict == ("PASS" if factor == 1.0 else "FAIL")
    assert ours.report.to_dict()["format"] == "refnode.gradient_report"


def test_check_grad_along_a_random_direction():
    for seed in range(5):
        right = check_grad(bowl, bowl_grad, X, direction="random", rng=seed)
        wrong = check_grad(bowl, lambda x: bowl_grad(x) + [1e-3, 0, 0], X, direction="random", seed=seed)
        v = np.random.default_rng(seed).standard_normal(3)
        assert right < 1e-11 and right.verdict == "PASS"
        assert wrong == pytest.approx(1e-3 * abs(v[0]), rel=1e-6) and wrong.verdict == "FAIL"
    assert check_grad(bowl, bowl_grad, X, direction="random").verdict == "PASS"


def test_check_grad_of_a_jacobian():
    fun = lambda x: layer(x, B)
    assert check_grad(fun, lambda x: layer_jac(), X) < 1e-10
    assert scipy.optimize.check_grad(fun, lambda x: layer_jac(), X) < 1e-6
    wrong = check_grad(fun, lambda x: layer_jac() * [[1, 1, 1], [1, 1, -1]], X)
    assert wrong == pytest.approx(2 * abs(layer_jac()[1, 2]), rel=1e-9)
    assert wrong.report.worst.name == "d fun[1] / d x[2]" and wrong.report.worst.index == (1, 2)


def test_check_grad_refuses():
    with pytest.raises(InvalidInputError, match="direction: expected 'all' or 'random', found 'some'"):
        check_grad(bowl, bowl_grad, X, direction="some")
    with pytest.raises(InvalidInputError, match="'random' needs a scalar func"):
        check_grad(lambda x: layer(x, B), lambda x: layer_jac(), X, direction="random")
    with pytest.raises(InvalidTypeError, match="grad: expected a callable"):
        check_grad(bowl, np.zeros(3), X)
    broken = check_grad(bowl, lambda x: np.full(3, np.nan), X)
    assert np.isnan(broken) and broken.verdict == "ERROR"


# --- Jacobians ------------------------------------------------------------------------------------

def test_check_jacobian_names_the_entry():
    fun = lambda x: np.array([[x[0] * x[1], x[1] ** 2], [np.sin(x[0]), 3.0]])
    jac = lambda x: np.array([[x[1], x[0]], [0, 2 * x[1]], [np.cos(x[0]), 0], [0, 0]])
    x = np.array([0.5, 2.0])
    assert check_jacobian(fun, x, jac(x)).verdict == "PASS"
    for k, i in np.ndindex(4, 2):
        wrong = jac(x)
        wrong[k, i] += 1e-4
        report = check_jacobian(fun, x, wrong)
        assert report.verdict == "FAIL" and report.worst.index == (k, i)
        assert report.worst.name == f"d fun[{k // 2},{k % 2}] / d x[{i}]"
        assert [c.index for c in report.components if c.verdict == "FAIL"] == [(k, i)]


def test_check_jacobian_knows_a_transpose():
    matrix = RNG.standard_normal((3, 3))
    report = check_jacobian(lambda x: matrix @ x, X, matrix.T)
    assert report.verdict == "FAIL" and "transposed, Jᵀ for J" in report.diagnosis[0]


def test_check_jacobian_of_wrong_shape_or_not_finite():
    assert "expected 2 × 3 numbers, found the shape (3,)" in check_jacobian(lambda x: W @ x, X, X).diagnosis[0]
    assert check_jacobian(lambda x: W @ x, X, W * np.nan).verdict == "ERROR"
    assert check_jacobian(lambda x: 1 / 0, X, W).diagnosis == ["fun raised ZeroDivisionError at x: division by zero"]
    assert check_jacobian(lambda x: W[:, :0] @ x, [], np.zeros((2, 0))).verdict == "PASS"


@pytest.mark.parametrize("max_evals, compared", [(10, 0), (20, 0), (100, 5), (2000, 20)])
def test_check_jacobian_within_a_budget(max_evals, compared):
    """Columns that are not paid for are seen along a random direction; without that, nothing is decided."""
    matrix = RNG.standard_normal((2, 20))
    right = check_jacobian(lambda x: matrix @ x, np.ones(20), matrix, max_evals=max_evals)
    wrong = check_jacobian(lambda x: matrix @ x, np.ones(20), matrix + 0.1, max_evals=max_evals)
    assert (right.verdict, wrong.verdict) == (("INCONCLUSIVE",) * 2 if max_evals == 10 else ("PASS", "FAIL"))
    assert sum(c.index is not None for c in right.components) == 2 * compared and right.evaluations <= max_evals


# --- hand-written derivatives, under PyTorch's and JAX's names ------------------------------------

@pytest.mark.parametrize("fast_mode", [False, True])
def test_gradcheck_of_hand_written_derivatives(fast_mode):
    options = {"fast_mode": fast_mode}
    assert gradcheck(layer, (X, B), vjp=layer_vjp, jvp=layer_jvp, **options) is True
    assert gradcheck(bowl, X, grad=bowl_grad, **options) is True
    for wrong in ({"vjp": lambda x, b: layer_vjp(x, b, 1.1)}, {"jvp": lambda p, t: layer_jvp(p, t, -1.0)},
                  {"vjp": layer_vjp, "jvp": lambda p, t: layer_jvp(p, t, 0.0)}):
        assert gradcheck(layer, (X, B), raise_exception=False, **wrong, **options) is False
        with pytest.raises(GradientMismatch, match="gradcheck .*FAIL"):
            gradcheck(layer, (X, B), **wrong, **options)
    assert not gradcheck(bowl, X, grad=lambda x: 2.0 * bowl_grad(x), raise_exception=False, **options)


def test_gradcheck_names_the_entry():
    def vjp(x, b):
        value, pullback = layer_vjp(x, b)
        return value, lambda w: (pullback(w)[0] + [0, 0, w[1]], pullback(w)[1])
    with pytest.raises(GradientMismatch) as caught:
        gradcheck(layer, (X, B), vjp=vjp)
    assert caught.value.report.worst.name == "d output[1] / d input[0][2]"


def test_check_grads_of_hand_written_derivatives():
    check_grads(layer, (X, B), 1, vjp=layer_vjp, jvp=layer_jvp)
    check_jvp(layer, layer_jvp, (X, B))
    check_vjp(layer, layer_vjp, (X, B))
    with pytest.raises(AssertionError, match="VJP .*FAIL"):
        check_grads(layer, (X, B), 1, vjp=lambda x, b: layer_vjp(x, b, 1.001))
    with pytest.raises(AssertionError, match="JVP .*FAIL"):
        check_grads(layer, (X, B), 1, jvp=lambda p, t: layer_jvp(p, t, 1.001))
    with pytest.raises(AssertionError, match="my rule .*FAIL"):
        check_vjp(layer, lambda x, b: layer_vjp(x, b, 0.5), (X, B), err_msg="my rule")


def test_check_grads_of_nested_arguments():
    tree = {"W": W, "rest": [B, (2.0, None)]}
    fun = lambda p, x: {"y": np.tanh(p["W"] @ x), "s": p["rest"][0] * p["rest"][1][0]}

    def vjp(p, x):
        slope = 1 - np.tanh(p["W"] @ x) ** 2
        return fun(p, x), lambda w: (
            {"W": np.outer(slope * w["y"], x), "rest": [2.0 * w["s"], (p["rest"][0] @ w["s"], None)]},
            p["W"].T @ (slope * w["y"]))

    check_grads(fun, (tree, X), 1, vjp=vjp)
    assert nest_of((tree, X), "args").names[-4:] == ["args[0]['rest'][1][0]", *(f"args[1][{i}]" for i in range(3))]
    with pytest.raises(GradientMismatch, match=r"VJP cotangent: expected parts of the shapes .*found"):
        check_grads(fun, (tree, X), 1, vjp=lambda p, x: (fun(p, x), lambda w: vjp(p, x)[1](w)[::-1]))


def test_the_value_beside_the_derivative_is_checked():
    with pytest.raises(GradientMismatch, match="VJP primal: the value beside the derivative is"):
        check_vjp(layer, lambda x, b: (layer(x, b) * 1.001, layer_vjp(x, b)[1]), (X, B))


def test_float32_is_judged_at_its_own_tolerance():
    """Right to rounding 1e-7 and a thousand times that of noise of finite differences: within 2e-3, not within 1e-9."""
    x = X.astype(np.float32)
    fun, vjp = lambda x: np.sin(x), lambda x: (np.sin(x), lambda w: (np.cos(x) * w,))
    check_vjp(fun, vjp, (x,))
    with pytest.raises(GradientMismatch, match="INCONCLUSIVE"):
        check_vjp(fun, vjp, (x,), rtol=1e-9)
    check_vjp(fun, vjp, (x,), rtol={np.float32: 1e-2, np.float64: 1e-12})
    with pytest.raises(GradientMismatch, match="FAIL"):
        check_vjp(fun, lambda x: (np.sin(x), lambda w: (1.02 * np.cos(x) * w,)), (x,))


@pytest.mark.parametrize("call, message", [
    (lambda: gradcheck(layer, (X, B), check_batched_grad=True, vjp=layer_vjp), "call torch.autograd.gradcheck for them"),
    (lambda: gradcheck(layer, (X, B), check_backward_ad=False, vjp=layer_vjp), "at least one of check_forward_ad"),
    (lambda: gradcheck(layer, (X, B), grad=bowl_grad), "grad: expected func to return one number, found 2"),
    (lambda: gradcheck(bowl, X + 0j, grad=bowl_grad), "input.0.: expected real numbers, found complex128"),
    (lambda: check_grads(layer, (X, B), 2, vjp=layer_vjp), "order: expected 1 for hand-written derivatives, found 2"),
    (lambda: check_grads(layer, (X, B), 1, modes="fwd"), "modes: expected some of"),
    (lambda: check_grads(layer, (X, B), 1, modes=("back",)), "modes: expected some of"),
    (lambda: check_vjp(layer, lambda *a: 3.0, (X, B)), r"f_vjp: expected a pair \(value, derivative\), found float"),
])
def test_what_is_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


@pytest.mark.parametrize("name, call", [("torch", lambda: gradcheck(layer, (X, B))),
                                        ("jax", lambda: check_grads(layer, (X, B), 1))])
def test_a_library_that_is_not_there_is_named(monkeypatch, name, call):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidInputError, match=f"needs the package '{name}'.* pass their hand-written derivative as vjp="):
        call()


# --- JAX, by a stand-in with complex steps --------------------------------------------------------

H = 1e-40


def stand_in(wrong=()):
    """A module with jvp, vjp and linearize of functions of one vector; ``wrong`` names those off by a part in 100."""
    factor = lambda name: 1.01 if name in wrong else 1.0
    slope = lambda f, x, v: f(np.asarray(x) + 1j * H * v).imag / H
    jax = types.ModuleType("jax")
    jax.jvp = lambda f, primals, tangents: (f(*primals), factor("jvp") * slope(f, *primals, tangents[0]))
    jax.vjp = lambda f, x: (f(x), lambda w: (factor("vjp") * np.array([slope(f, x, unit) @ w for unit in np.eye(x.size)]),))
    jax.linearize = lambda f, x: (f(x), lambda v: factor("linearize") * slope(f, x, v))
    return jax


@pytest.mark.parametrize("mode, name", [("fwd", "jvp"), ("rev", "vjp"), ("lin", "linearize")])
def test_every_mode_of_check_grads_is_checked(monkeypatch, mode, name):
    fun = lambda x: np.sin(W @ x) * np.exp(W @ x)
    monkeypatch.setitem(sys.modules, "jax", stand_in())
    check_grads(fun, (X,), 1, modes=("fwd", "rev", "lin"))
    monkeypatch.setitem(sys.modules, "jax", stand_in([name]))
    with pytest.raises(GradientMismatch, match={"fwd": "JVP", "rev": "VJP", "lin": "LIN"}[mode]):
        check_grads(fun, (X,), 1, modes=(mode,))
    check_grads(fun, (X,), 1, modes=[other for other in ("fwd", "rev", "lin") if other != mode])


# --- the libraries themselves, where they are installed -------------------------------------------

def test_signature_and_verdicts_of_torch():
    torch = pytest.importorskip("torch")
    original = torch.autograd.gradcheck
    theirs = original if callable(original) else original.gradcheck
    assert [p for p in parameters_of(theirs) if p not in parameters_of(gradcheck)] == []
    x = torch.tensor(X, requires_grad=True)

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx, w):
            return w * ctx.saved_tensors[0]

    matrix = torch.tensor(W, requires_grad=True)
    for options in ({}, {"fast_mode": True}, {"check_forward_ad": True}, {"check_grad_dtypes": True}):
        assert gradcheck(lambda m, x: (torch.tanh(m @ x), 2 * x), (matrix, x), **options)
    for fast_mode in (False, True):
        with pytest.raises(sys.modules["torch.autograd.gradcheck"].GradcheckError):
            gradcheck(Wrong.apply, x, fast_mode=fast_mode)
        with pytest.raises(GradientMismatch, match="FAIL"):
            gradcheck(Wrong.apply, x, fast_mode=fast_mode)
    with pytest.raises(GradientMismatch, match="yours is zero"):
        gradcheck(lambda x: 2 * x.detach(), x)
    with pytest.raises(GradientMismatch, match="two backward passes differ"):
        gradcheck(noisy(torch).apply, x)
    with pytest.raises(InvalidInputError, match="at least one tensor with requires_grad=True"):
        gradcheck(torch.sin, x.detach())


def noisy(torch):
    """Every backward pass is a little larger than the one before."""
    state = iter(range(1000))

    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, w):
            return 2 * w + 1e-9 * next(state)
    return Noisy


def test_signature_and_verdicts_of_jax():
    jax = pytest.importorskip("jax")
    from jax.test_util import check_grads as theirs
    assert [p for p in parameters_of(theirs) if p not in parameters_of(check_grads)] == []
    fun = lambda p, x: jax.numpy.tanh(p["W"] @ x)
    arguments = ({"W": jax.numpy.array(W)}, jax.numpy.array(X))
    check_grads(fun, arguments, 2, modes=("fwd", "rev"))

    @jax.custom_vjp
    def wrong(x):
        return jax.numpy.sin(x)

    wrong.defvjp(lambda x: (wrong(x), x), lambda x, w: (1.05 * w * jax.numpy.cos(x),))
    with pytest.raises(GradientMismatch, match="VJP .*FAIL"):
        check_grads(wrong, (arguments[1],), 1, modes=["rev"])
    with pytest.raises(AssertionError):
        theirs(wrong, (arguments[1],), 1, modes=["rev"])
