"""What `refnode.testing` knows of PyTorch, of JAX and of hand-written derivatives: values and maps on flat vectors."""
import functools
import importlib
from dataclasses import replace

import numpy as np

from refnode.errors import GradientMismatch, InvalidInputError, InvalidTypeError
from refnode.gradcheck.evaluation import UnusableFunction, require_callable
from refnode.gradcheck.gradient_report import Check, GradientReport
from refnode.gradcheck.jacobian import combined
from refnode.gradcheck.linear_maps import check_pull, check_pull_of, check_push, check_push_along
from refnode.gradcheck.nesting import Nest, nest_of

MAX_EVALS = 1000          # of one gradient in `check_vjp`: about 60 components, the others along a random direction
TOLERANCES = {"float16": 1e-2, "float32": 2e-3, "float64": 1e-5}     # JAX's for gradients
MODES = ("fwd", "rev", "lin")


def foreign(name, wanted_by):
    """The module, or an error that says who wants it."""
    try:
        return importlib.import_module(name)
    except ImportError as fault:
        raise InvalidInputError(
            f"{wanted_by} needs the package {name!r}, which could not be imported ({fault}); for functions of NumPy "
            "arrays pass their hand-written derivative as vjp=, jvp= or grad=") from fault


class Derivatives:
    """A function of flat vectors, with the maps that claim to be its derivative.

    Attributes
    ----------
    value : callable
        (n,) -> (m,).
    inputs, outputs : Nest
        Names and types of the n and the m numbers.
    maps : dict
        Label -> ("push" or "pull", map).
    faults : list of str
        What is wrong whatever the numbers are.
    error : type
        What a wrong derivative raises.
    """

    error = GradientMismatch

    def __init__(self, value, inputs, outputs, maps, faults=()):
        self.value, self.inputs, self.outputs, self.maps, self.faults = value, inputs, outputs, maps, list(faults)

    def report(self, fast, rtol, atol, seed, title):
        """One `GradientReport` of all maps."""
        checked = {label: self._checked(kind, linear, fast, {"rtol": rtol, "atol": atol, "seed": seed})
                   for label, (kind, linear) in self.maps.items()}
        report = combined(checked if len(checked) > 1 else {"": next(iter(checked.values()))}, title)
        if not self.faults:
            return report
        checks = [*report.checks, *(Check("contract", "disagree", fault) for fault in self.faults)]
        return GradientReport(**{**vars(report), "verdict": "FAIL", "checks": checks,
                                 "diagnosis": self.faults + report.diagnosis})

    def _checked(self, kind, linear, fast, options):
        x, names, rows = self.inputs.vector, self.inputs.names, self.outputs.names
        if not fast:
            return (check_push if kind == "push" else check_pull)(self.value, x, linear, names, rows, **options)
        if kind == "push":
            return check_push_along(self.value, x, linear, rows, eps=float(np.finfo(self.outputs.type).eps), **options)
        return check_pull_of(self.value, x, linear, names, len(rows), dtype=self.outputs.type, methods=("dot",), **options)


def flat_of(outputs, tree, name):
    """The numbers of a result as a vector, refused unless it has the parts and shapes of `outputs`."""
    found = nest_of(tree, name)
    if found.shapes != outputs.shapes:
        raise UnusableFunction(f"{name}: expected parts of the shapes {outputs.shapes}, found {found.shapes}")
    return found.vector


# --- hand-written derivatives of functions of arrays ----------------------------------------------

def array_derivatives(function, inputs, grad, jvp, vjp):
    """`Derivatives` of a function of arrays, for `gradcheck`."""
    require_callable(function, "func")
    primals = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    inputs = nest_of(tuple(primals), "input")
    outputs = nest_of(function(*inputs.of(inputs.vector)), "output")
    value = lambda x: flat_of(outputs, function(*inputs.of(x)), "func")
    maps = {}
    if grad is not None:
        maps["grad"] = "pull", _gradient_map(grad, inputs, outputs)
    if vjp is not None:
        maps["vjp"] = "pull", lambda w: flat_of(inputs, _as_tuple(vjp(*inputs.of(inputs.vector))[1](outputs.of(w))), "vjp")
    if jvp is not None:
        maps["jvp"] = "push", lambda v: flat_of(outputs, jvp(inputs.of(inputs.vector), inputs.of(v))[1], "jvp")
    return Derivatives(value, inputs, outputs, maps)


def _gradient_map(grad, inputs, outputs):
    if len(outputs.names) != 1:
        raise InvalidInputError(f"grad: expected func to return one number, found {len(outputs.names)}; give vjp= or jvp=")
    return lambda w: w[0] * flat_of(inputs, _as_tuple(grad(*inputs.of(inputs.vector))), "grad")


def _as_tuple(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


# --- PyTorch --------------------------------------------------------------------------------------

def torch_derivatives(function, inputs, forward, backward, nondet_tol, check_dtypes):
    """`Derivatives` of a function of tensors."""
    require_callable(function, "func")
    torch = foreign("torch", "gradcheck without vjp=, jvp= or grad=")
    everything = _as_tuple(inputs)
    varied = [i for i, part in enumerate(everything) if isinstance(part, torch.Tensor) and part.requires_grad]
    if not varied:
        raise InvalidInputError("inputs: expected at least one tensor with requires_grad=True, found none; for functions of "
                                "NumPy arrays pass their hand-written derivative as vjp=, jvp= or grad=")
    for i in varied:
        if everything[i].layout is not torch.strided:
            raise InvalidInputError(f"inputs[{i}]: expected a dense tensor, found the layout {everything[i].layout}")
    return _TorchFunction(torch, function, everything, varied).derivatives(forward, backward, nondet_tol, check_dtypes)


class _TorchFunction:
    """A function of tensors; those inputs vary that require a gradient."""

    def __init__(self, torch, function, everything, varied):
        self.torch, self.function, self.everything, self.varied = torch, function, everything, varied
        names = [f"inputs[{i}]" if len(everything) > 1 else "input" for i in varied]
        self.inputs = Nest([everything[i].detach().cpu().numpy() for i in varied], list, names)
        self.tensors = self._tensors(self.inputs.vector)
        results = _as_tuple(self._call(self.tensors))
        floating = [k for k, part in enumerate(results) if isinstance(part, torch.Tensor) and part.is_floating_point()]
        self.chosen = [k for k in floating if results[k].requires_grad] or floating    # none: the claim is a zero gradient
        self.results = [results[k] for k in self.chosen]
        names = [f"output[{k}]" if len(results) > 1 else "output" for k in self.chosen]
        self.outputs = Nest([part.detach().cpu().numpy() for part in self.results], list, names)

    def _tensors(self, vector):
        """Fresh tensors, on the device of the originals."""
        return [self.torch.from_numpy(array.copy()).to(self.everything[i].device).requires_grad_()
                for i, array in zip(self.varied, self.inputs.of(vector))]

    def _call(self, tensors):
        arguments = list(self.everything)
        for i, tensor in zip(self.varied, tensors):
            arguments[i] = tensor
        return self.function(*arguments)

    def value(self, x):
        results = _as_tuple(self._call(self._tensors(x)))
        return flat_of(self.outputs, [results[k].detach().cpu().numpy() for k in self.chosen], "func")

    def _pulled(self, w):
        """Gradients as tensors, from those outputs alone whose cotangent is not zero."""
        bars = [(part, self.torch.from_numpy(np.asarray(bar)).to(part.device))
                for part, bar in zip(self.results, self.outputs.of(w)) if np.any(bar) and part.requires_grad]
        if not bars:
            return [None] * len(self.tensors)
        return self.torch.autograd.grad([part for part, _ in bars], self.tensors, [bar for _, bar in bars],
                                        retain_graph=True, allow_unused=True)

    def pull(self, w):
        parts = [np.zeros(shape) if part is None else part.detach().cpu().numpy()
                 for part, shape in zip(self._pulled(w), self.inputs.shapes)]
        return flat_of(self.inputs, parts, "the gradient by backward()")

    def push(self, v):
        """Forward mode by dual numbers."""
        dual = self.torch.autograd.forward_ad
        with dual.dual_level():
            tangents = [self.torch.from_numpy(np.asarray(part)).to(tensor.device)
                        for part, tensor in zip(self.inputs.of(v), self.tensors)]
            results = _as_tuple(self._call([dual.make_dual(tensor.detach(), tangent)
                                            for tensor, tangent in zip(self.tensors, tangents)]))
            found = [dual.unpack_dual(results[k]).tangent for k in self.chosen]
            parts = [np.zeros(shape) if part is None else part.detach().cpu().numpy()
                     for part, shape in zip(found, self.outputs.shapes)]
        return flat_of(self.outputs, parts, "the tangent by forward mode")

    def derivatives(self, forward, backward, nondet_tol, check_dtypes):
        maps = {"backward": ("pull", self.pull)} if backward else {}
        maps.update({"forward": ("push", self.push)} if forward else {})
        faults = self._faults(nondet_tol, check_dtypes) if backward else []
        subject = Derivatives(self.value, self.inputs, self.outputs, maps, faults)
        subject.error = _torch_error()
        return subject

    def _faults(self, nondet_tol, check_dtypes):
        w = np.ones(len(self.outputs.names))
        once, again = self.pull(w), self.pull(w)
        faults = []
        if not np.all(np.abs(once - again) <= nondet_tol):
            faults.append(f"two backward passes differ by {np.abs(once - again).max():.1e}, nondet_tol is {nondet_tol:g}")
        for name, tensor, part in zip(self.inputs.leaf_names, self.tensors, self._pulled(w)):
            if check_dtypes and part is not None and part.dtype != tensor.dtype:
                faults.append(f"the gradient of {name} has the type {part.dtype}, expected {tensor.dtype}")
        return faults


def _torch_error():
    """A mismatch that is caught as PyTorch's own as well."""
    theirs = importlib.import_module("torch.autograd.gradcheck").GradcheckError
    return type("GradientMismatch", (GradientMismatch, theirs), {"__module__": "refnode.errors"})


# --- JAX ------------------------------------------------------------------------------------------

def checked_grads(f, args, order, modes, jvp, vjp, options):
    """The recursion of `jax.test_util.check_grads`."""
    require_callable(f, "f")
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or isinstance(modes, str):
        raise InvalidInputError(f"modes: expected some of {MODES}, found {modes!r}")
    if jvp is vjp is None:
        return _check_order(foreign("jax", "check_grads without jvp= or vjp="), f, args, order, modes, "", options)
    if order != 1:
        raise InvalidInputError(f"order: expected 1 for hand-written derivatives, found {order}; check a second derivative "
                                "as the first of the first")
    if jvp is not None:
        checked_jvp(f, jvp, args, "JVP", **options)
    if vjp is not None:
        checked_vjp(f, vjp, args, "VJP", **options)


def _check_order(jax, f, args, order, modes, led, options):
    """One order and, of what its derivatives compute, the next; beyond the first along random directions only."""
    options = {**options, "every": not led}
    if "fwd" in modes:
        _check_forward(jax, f, functools.partial(jax.jvp, f), args, order, modes, f"JVP of {led}" if led else "JVP", options)
    if "rev" in modes:
        what = f"VJP of {led}" if led else "VJP"
        checked_vjp(f, functools.partial(jax.vjp, f), args, what, **options)
        if order > 1:
            def pulled(*args):
                value, pullback = jax.vjp(f, *args)
                return pullback(value)
            _check_order(jax, pulled, args, order - 1, modes, what, options)
    if "lin" in modes:
        def linear(primals, tangents):
            value, push = jax.linearize(f, *primals)
            return value, push(*tangents)
        _check_forward(jax, f, linear, args, order, modes, f"LIN of {led}" if led else "LIN", options)


def _check_forward(jax, f, push, args, order, modes, what, options):
    checked_jvp(f, push, args, what, **options)
    if order > 1:
        _check_order(jax, push, (args, args), order - 1, modes, what, options)


def checked_jvp(f, f_jvp, args, what, *, atol, rtol, seed, allow_inconclusive, every=True):
    """Push one random tangent; every output is compared."""
    inputs, outputs, value = _nests(f, args)
    require_callable(f_jvp, "f_jvp")

    def push(v):
        primal, tangent = _pair(f_jvp(inputs.of(inputs.vector), inputs.of(v)), "f_jvp")
        _require_primal(outputs, primal, what)
        return _flat(outputs, tangent, f"{what} tangent")

    tolerance = _tolerances(outputs.type, rtol, atol)
    report = check_push_along(value, inputs.vector, push, outputs.names, seed=seed, eps=float(np.finfo(outputs.type).eps),
                              **tolerance)
    _raise(report, what, allow_inconclusive)


def checked_vjp(f, f_vjp, args, what, *, atol, rtol, seed, allow_inconclusive, every=True):
    """Pull one random cotangent, and compare with the gradient of its product with f: every component, or one direction."""
    inputs, outputs, value = _nests(f, args)
    require_callable(f_vjp, "f_vjp")

    def pull(w):
        primal, pullback = _pair(f_vjp(*inputs.of(inputs.vector)), "f_vjp")
        _require_primal(outputs, primal, what)
        return _flat(inputs, pullback(outputs.of(w)), f"{what} cotangent")

    kind = min(inputs.type, outputs.type, key=lambda kind: kind.itemsize)
    report = check_pull_of(value, inputs.vector, pull, inputs.names, len(outputs.names), dtype=outputs.type, seed=seed,
                           methods=("fd", "dot") if every else ("dot",), max_evals=MAX_EVALS, **_tolerances(kind, rtol, atol))
    _raise(report, what, allow_inconclusive)


def _nests(f, args):
    """Nests of the arguments and of the value, and the function between their vectors."""
    inputs = _nest(args, "args")
    outputs = _nest(f(*inputs.of(inputs.vector)), "f")
    return inputs, outputs, lambda x: _flat(outputs, f(*inputs.of(x)), "f")


def _nest(tree, name):
    """`nest_of`, or JAX's trees where they are of its making."""
    try:
        return nest_of(tree, name)
    except InvalidTypeError:
        tree_util = foreign("jax", f"{name}: a structure of another kind").tree_util
        leaves, structure = tree_util.tree_flatten(tree)
        return Nest(leaves, lambda arrays: tree_util.tree_unflatten(structure, arrays), [f"{name}[{i}]" for i in range(len(leaves))])


def _flat(expected, tree, name):
    found = _nest(tree, name)
    if found.shapes != expected.shapes:
        raise GradientMismatch(f"{name}: expected parts of the shapes {expected.shapes}, found {found.shapes}")
    return found.vector


def _pair(value, name):
    if not (isinstance(value, tuple) and len(value) == 2):
        raise InvalidInputError(f"{name}: expected a pair (value, derivative), found {type(value).__name__}")
    return value


def _require_primal(outputs, primal, what):
    """The value that comes with the derivative is that of the function."""
    found = _flat(outputs, primal, f"{what} primal")
    near = ROUNDED * float(np.finfo(outputs.type).eps) * np.abs(outputs.vector).max(initial=0.0)
    if not np.allclose(found, outputs.vector, rtol=0.0, atol=near, equal_nan=True):
        k = int(np.argmax(np.abs(found - outputs.vector)))
        raise GradientMismatch(f"{what} primal: the value beside the derivative is {found[k]:g} in {outputs.names[k]}, "
                               f"where the function itself gives {outputs.vector[k]:g}")


ROUNDED = 1024            # roundings by which two ways to compute one value may differ


def _tolerances(kind, rtol, atol):
    return {"rtol": _of_type(rtol, kind, TOLERANCES.get(kind.name, 1e-5)), "atol": _of_type(atol, kind, 0.0)}


def _of_type(tolerance, kind, default):
    if isinstance(tolerance, dict):
        tolerance = {np.dtype(key): value for key, value in tolerance.items()}.get(kind)
    return default if tolerance is None else float(tolerance)


def _raise(report, what, allow_inconclusive):
    if not (report or (allow_inconclusive and report.verdict == "INCONCLUSIVE")):
        named = replace(report, title=what)
        raise GradientMismatch(named.to_text(), report=named)
