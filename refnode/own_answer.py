"""refnode's answer to a problem file."""
import refnode
from refnode._version import __version__
from refnode.given_steps import tableau_of
from refnode.interchange.answer_file import FORMAT, VERSION, plain
from refnode.problems.problem_of_data import problem_of
from refnode.sensitivity.recipes import recipe_named

TRUTHS = {"exact": "exact", "frozen": "discrete_frozen", "through": "discrete_through"}
DEFAULT_WANT = ("y", "loss", "grad_y0", "grad_theta", "grad_t0", "grad_t1", "grad_ts")
RTOL, ATOL = 1e-10, 1e-12                   # where the file does not say
COUNTS = ("nfev", "nsteps", "n_steps", "rejected")


def answer_of(data, *, sensitivity="discrete", method="dop853", rtol=None, atol=None):
    """Solve a problem given as data, as another program would.

    Parameters
    ----------
    data : dict
        A checked problem; its ``solver`` and ``want`` say how, and what for.
    sensitivity, method : str
        Recipe and method of a problem of mode "tolerance"; given steps leave no choice.
    rtol, atol : float, optional
        In place of those in the file.

    Returns
    -------
    dict
        "refnode.answer", version 1.
    """
    problem, want = problem_of(data), data.get("want", DEFAULT_WANT)
    solver = data.get("solver", {"mode": "tolerance"})
    if solver["mode"] == "fixed":
        sensitivity, method = "discrete", tableau_of(solver["tableau"])
        options = {"method": method, "steps": tuple(solver["steps"])}
    else:
        options = {"method": method, "rtol": rtol or solver.get("rtol", RTOL), "atol": atol or solver.get("atol", ATOL)}
    found = refnode.gradient(problem, sensitivity, **options)
    answer = {
        "format": FORMAT, "version": VERSION, "problem_sha256": data["sha256"],
        "tool": {"name": "refnode", "version": __version__, "method": f"{getattr(method, 'name', method)}, {sensitivity}"},
        "truth": TRUTHS[recipe_named(sensitivity).truth], "y": found.solution.y, "loss": found.loss,
        "grad": {key: getattr(found, key) for key in ("y0", "theta", "t0", "t1", "ts") if f"grad_{key}" in want},
        "stats": {key: value for key, value in found.stats.items() if isinstance(value, (int, float))}}
    return plain({**answer, **_products(data, problem, want, options), "error": None})


def _products(data, problem, want, options):
    """hvp, jvp and vjp, as far as they are wanted and the problem has a direction for them."""
    found, seeds, direction = {}, data.get("seeds", {}), data.get("hvp_direction")
    if direction and {"hvp_y0", "hvp_theta"} & set(want):
        product = refnode.hvp(problem, y0_tan=direction["y0"], theta_tan=direction["theta"], **options)
        found["hvp"] = {key: getattr(product, key) for key in ("y0", "theta") if f"hvp_{key}" in want}
    if "jvp" in want:
        found["jvp"] = refnode.jvp(problem, seeds.get("tangent_y0"), seeds.get("tangent_theta"), **options)
    if "vjp" in want:
        pulled = refnode.vjp(problem, seeds.get("cotangent"), **options)
        found["vjp"] = {"y0": pulled.y0, "theta": pulled.theta}
    return found
