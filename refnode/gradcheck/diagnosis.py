"""The dictionary of known mistakes: what a wrong gradient, compared with the right one, says about its bug."""
from dataclasses import dataclass, field

import numpy as np

SUBNORMAL = 1e-290   # scales below have no digits, and their inverse overflows
EXPLAINS = 0.01   # a mistake is recognised if it leaves at most this part of the mismatch


@dataclass(frozen=True)
class Mismatch:
    """A wrong gradient and its reference, flat, with what is known of their layout.

    Attributes
    ----------
    yours, reference, scale : ndarray, shape (n,)
        `scale` is the magnitude by which an error in each component is judged.
    wrong : ndarray of bool, shape (n,)
        Components outside their bound.
    names : list of str
    shapes : dict of str to tuple
        Blocks of x in order, e.g. {"W": (2, 3), "b": (2,)}; row-major.
    candidates : dict of str to ndarray, shape (n,)
        Gradients with a known mistake, supplied by the caller.
    """

    yours: np.ndarray
    reference: np.ndarray
    scale: np.ndarray
    wrong: np.ndarray
    names: list
    shapes: dict = field(default_factory=dict)
    candidates: dict = field(default_factory=dict)

    @property
    def size(self):
        """The mismatch to be explained, relative to the scale."""
        return self.residual(self.reference)

    def residual(self, gradient):
        """max |yoursᵢ − gradientᵢ| / scaleᵢ; inf where something wrong, without a scale, differs."""
        difference = np.abs(self.yours - gradient)
        positive = self.scale > SUBNORMAL
        if (difference[self.wrong & ~positive] > 0).any():
            return float("inf")
        return float(np.max(difference[positive] / self.scale[positive], initial=0.0))

    def explained_by(self, gradient):
        """Whether yours equals `gradient`, far better than it equals the reference."""
        residual = self.residual(gradient)
        return residual <= EXPLAINS * self.size and residual < float("inf")

    def only(self, members):
        """The mismatch restricted to some components."""
        return Mismatch(self.yours[members], self.reference[members], self.scale[members], self.wrong[members],
                        [self.names[i] for i in members])

    def blocks(self):
        """Indices of each block: from `shapes`, else from the names before '['."""
        if self.shapes:
            return dict(_consecutive(self.shapes))
        members = {}
        for i, name in enumerate(self.names):
            members.setdefault(name.split("[")[0], []).append(i)
        return {block: np.array(indices) for block, indices in members.items()}


def diagnose(mismatch):
    """Known mistakes that explain the mismatch, the most specific first; one line each."""
    if not mismatch.wrong.any():
        return []
    found = [line for _, recognise in KNOWN_MISTAKES if (line := recognise(mismatch))]
    return found or ["no known mistake explains the difference"]


def _candidate(mismatch):
    for description, gradient in mismatch.candidates.items():
        if mismatch.explained_by(gradient):
            return f"yours equals ({mismatch.residual(gradient):.1e}) the gradient {description}"
    return None


def _zero(mismatch):
    return "yours is zero" if mismatch.explained_by(0 * mismatch.reference) else None


def _sign(mismatch):
    return "the sign is flipped: yours = −reference" if mismatch.explained_by(-mismatch.reference) else None


def _factor(mismatch):
    factor = _best_factor(mismatch)
    for value, meaning in _factor_meanings(factor):
        if mismatch.explained_by(value * mismatch.reference):
            return f"yours = {meaning} × reference"
    special = factor == 0 or mismatch.explained_by(-mismatch.reference)
    if len(mismatch.yours) > 1 and not special and mismatch.explained_by(factor * mismatch.reference):
        return f"yours = {factor:.6g} × reference, in every component"
    return None


def _best_factor(mismatch):
    """Least-squares c in yours = c · reference, in units of the scale."""
    counts = mismatch.scale > SUBNORMAL
    weight = np.where(counts, 1 / np.where(counts, mismatch.scale, 1.0), 0.0)
    yours, reference = weight * mismatch.yours, weight * mismatch.reference
    norm = reference @ reference
    return float(yours @ reference / norm) if norm > 0 else 0.0


def _factor_meanings(factor):
    yield 2.0, "2"
    yield 0.5, "1/2"
    whole = _nearly_whole(factor)
    if whole:
        yield float(whole), f"{whole} (a sum in place of a mean over N = {whole}?)"
    parts = _nearly_whole(1 / factor) if factor > 1e-9 else 0
    if parts:
        yield 1.0 / parts, f"1/{parts} (a mean in place of a sum over N = {parts}?)"


def _nearly_whole(factor):
    """The whole number above 2 that a factor is, or 0: within 0.01, since every factor is near some 1/N."""
    return round(factor) if 2.5 < factor < 1e9 and abs(factor - round(factor)) < 0.01 else 0


def _one_block(mismatch):
    """Exactly the components of some blocks are wrong."""
    blocks = mismatch.blocks()
    hit = [block for block, members in blocks.items() if mismatch.wrong[members].any()]
    if len(hit) != 1 or len(blocks) == 1 or len(blocks[hit[0]]) == 1:
        return None
    return f"only the block {hit[0]} is wrong" + _how(mismatch.only(blocks[hit[0]]))


def _one_component(mismatch):
    wrong = np.flatnonzero(mismatch.wrong)
    if len(wrong) != 1 or len(mismatch.yours) == 1:
        return None
    return f"only the component {mismatch.names[wrong[0]]} is wrong" + _how(mismatch.only(wrong))


def _how(part):
    for recognise in (_zero, _sign, _factor):
        line = recognise(part)
        if line:
            return f": there {line}"
    return ": a term is missing or doubled there"


def _transposed(mismatch):
    """A matrix read column by column where the parameters are stored row by row."""
    for block, members in _consecutive(mismatch.shapes):
        shape = mismatch.shapes[block]
        if len(shape) != 2 or min(shape) < 2:
            continue
        gradient = mismatch.reference.copy()
        gradient[members] = gradient[members].reshape(shape).ravel(order="F")
        if mismatch.explained_by(gradient):
            return f"the block {block} {shape} is laid out column by column (order F), expected row by row"
    return None


def _permuted(mismatch):
    """yours[k] = reference[order[k]] for a permutation found by sorting both."""
    order = np.empty(len(mismatch.yours), dtype=int)
    order[np.argsort(mismatch.yours, kind="stable")] = np.argsort(mismatch.reference, kind="stable")
    if not mismatch.explained_by(mismatch.reference[order]):
        return None
    shown = ", ".join(map(str, order[:12])) + (", …" if len(order) > 12 else "")
    return f"yours matches after permutation: yours[k] = reference[order[k]], order = [{shown}]"


def _single_precision(mismatch):
    nonzero = mismatch.reference != 0
    relative = np.abs(mismatch.yours - mismatch.reference)[nonzero] / np.abs(mismatch.reference[nonzero])
    if len(relative) and mismatch.size < 1e-5 and 1e-9 < np.median(relative) < 1e-6:
        return f"the errors are of float32 size (median {np.median(relative):.0e}): is a part computed in float32?"
    return None


def _another_truth(mismatch):
    """Small differences in the same direction everywhere: two discretisations of one derivative."""
    if mismatch.size < 1e-2 and mismatch.wrong.sum() > 1:
        return (f"both point the same way and differ by {mismatch.size:.0e} × scale: fun may be an approximation "
                "(a solver at a loose tolerance) and yours the derivative of the exact solution, or of fun with "
                "its steps frozen")
    return None


def _consecutive(shapes):
    start = 0
    for block, shape in shapes.items():
        stop = start + int(np.prod(shape))
        yield block, np.arange(start, stop)
        start = stop


KNOWN_MISTAKES = (
    ("a gradient with a mistake the caller named", _candidate),
    ("zero", _zero),
    ("sign", _sign),
    ("factor 2, 1/2, N, 1/N or another", _factor),
    ("one block", _one_block),
    ("one component", _one_component),
    ("transposed layout", _transposed),
    ("permuted components", _permuted),
    ("single precision", _single_precision),
    ("the derivative of another truth", _another_truth),
)
