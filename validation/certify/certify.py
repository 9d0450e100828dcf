"""Makes and remakes the proven reference values in refnode/problems/certified/.

    python validation/certify/certify.py --all                 what is missing or out of date
    python validation/certify/certify.py ID ... --compare      makes them again, and requires that the balls overlap;
                                                               what overlaps is noted in validation/results/remade.json

Needs python-flint (the extra "certify"). Each file is written as soon as it is made.
"""
import argparse
import concurrent.futures
import json
import multiprocessing
import pathlib
import platform
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import flint                                                                        # noqa: E402
from flint import arb, ctx                                                          # noqa: E402

from closed_forms import closed_values                                              # noqa: E402
from decimal_balls import ball_of, leaves, nested, text_of                          # noqa: E402
from proof import enclosures                                                        # noqa: E402
from refnode.problems.certified import CERTIFIED, FORMAT, VERSION, path_of          # noqa: E402
from refnode.interchange.canonical_json import problem_sha256                            # noqa: E402
from refnode.problems.reference_set import REFERENCE_PROBLEMS                       # noqa: E402
from sweeps import Settings                                                         # noqa: E402
from taylor_step import log2                                                        # noqa: E402

REMADE = HERE.parent / "results" / "remade.json"
GOAL_BITS = 100                 # 2^-100 < 1e-30, relative to the largest entry of a quantity
FIRST_DIGITS = 130
DIGITS = {"cosine_relaxation/k50": 220, "cosine_relaxation/k100": 360, "cosine_relaxation/k200": 360,
          "cosine_relaxation/k1000": 360, "lorenz/t10": 145, "lorenz/t20": 170, "kepler/t64": 182,
          "kepler/periods20": 215}
# where decay or growth costs digits, so that the first attempt is the last
LAST = ("mlp/2_32", "mlp/8", "dilution", "lorenz/t20", "kepler", "mu100", "fitzhugh")        # take minutes
METHOD = ("validated Taylor series of state and adjoint; tails by a fixed point in the weighted l1 norm; "
          "deviations in parallelepipeds (Lohner)")


def remake(id, report=None, settings=None):
    """The content of the file of one problem, made from scratch; a dict of plain strings and numbers."""
    problem = REFERENCE_PROBLEMS[id].to_dict()
    started = time.process_time()
    values, settings = proven(problem, settings or first_settings(problem), report or (lambda what, t: None))
    content = {
        "format": FORMAT, "version": VERSION, "id": id, "problem_sha256": problem["sha256"],
        "values": {name: nested(text_of, value) for name, value in values.items()},
        "provenance": {
            "method": METHOD, "bits": settings.bits, "order": settings.order, "digits": settings.digits,
            "sets": settings.sets, "steps": settings.steps,
            "relative_radius": {name: relative_radius(value, values) for name, value in values.items() if leaves(value)},
            "seconds": round(time.process_time() - started, 1),
            "software": {"python": platform.python_version(), "python-flint": flint.__version__,
                         "flint": flint.__FLINT_VERSION__}}}
    return with_closed_form(content)


def with_closed_form(content):
    """The content with its hash, and the note that a closed form overlaps, if there is one; raises if it does not."""
    closed = closed_values(REFERENCE_PROBLEMS[content["id"]])
    if closed is not None:
        with ctx.workprec(600):
            apart = [name for name, values in closed.items() if name in content["values"] and not all(
                ball_of(a).overlaps(b) for a, b in zip(leaves(content["values"][name]), leaves(values), strict=True))]
        if apart:
            raise ArithmeticError(f"the closed form does not overlap in {', '.join(apart)}")
        content["provenance"]["closed_form"] = "overlaps"
    return {**content, "sha256": problem_sha256(content)}


def first_settings(problem):
    """What is tried first; `proven` then asks for as many bits more as are missing."""
    sets = "mlp" not in problem["rhs"] and len(problem["y0"]) <= 8
    return with_digits(DIGITS.get(problem["id"], FIRST_DIGITS), sets, 50 if sets else 150)


def with_digits(digits, sets, spare):
    return Settings(order=int(0.36 * digits), bits=digits + spare, digits=digits, sets=sets)


def proven(problem, settings, report, attempts=4):
    """(values, settings) with radii of at most 2^-GOAL_BITS."""
    for _ in range(attempts):
        settings.report, settings.steps = report, 0
        values = enclosures(problem, settings)
        with ctx.workprec(settings.bits):
            missing = max(missing_bits(value, values) for value in values.values())
        if missing <= 0:
            return values, settings
        print(f"  {missing} bits are missing at {settings.bits}", flush=True)
        spare = settings.bits - settings.digits
        settings = with_digits(settings.digits + missing + 6, settings.sets, spare if settings.sets else spare + missing)
    raise ArithmeticError(f"{missing} bits are missing after {attempts} attempts")


def relative_radii(value, values):
    """Every radius by its own midpoint; of a ball around zero by the largest entry of its quantity, or, if that is zero throughout,
    of all quantities."""
    entries = leaves(value)
    if all(x.contains(0) for x in entries):
        scale = max(abs(x).mid() for other in values.values() for x in leaves(other))
    else:
        scale = max(abs(x).mid() for x in entries)
    return [x.rad() / (scale if x.contains(0) else abs(x).mid()) for x in entries if x.rad() > 0]


def missing_bits(value, values):
    """How many bits the worst radius is above the goal."""
    if not all(x.is_finite() for x in leaves(value)):
        return 100
    return int(max((log2(x) for x in relative_radii(value, values)), default=-1e3)) + GOAL_BITS


def relative_radius(value, values):
    """The largest of the relative radii, two figures, for people."""
    return max(relative_radii(value, values), default=arb(0)).str(2, radius=False)


def overlaps(content, other):
    """Names of quantities of which the balls of two contents do not all overlap, or whose shapes differ."""
    with ctx.workprec(600):
        return [name for name in {**content["values"], **other["values"]}
                if not _overlap(content["values"].get(name), other["values"].get(name))]


def _overlap(a, b):
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_overlap, a, b))
    return isinstance(a, dict) and isinstance(b, dict) and ball_of(a).overlaps(ball_of(b))


def is_current(id):
    """Whether the file is there and belongs to the problem as it is now."""
    path = path_of(id)
    return path.exists() and (json.loads(path.read_text(encoding="utf-8"))["problem_sha256"]
                              == REFERENCE_PROBLEMS[id].to_dict()["sha256"])


def written(id, content):
    CERTIFIED.mkdir(exist_ok=True)
    path_of(id).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def note_remade(id):
    """That the values in this file were made again from scratch, with overlap: by their hash, so that a changed file is not meant."""
    noted = json.loads(REMADE.read_text(encoding="utf-8")) if REMADE.exists() else {}
    noted[id] = values_sha256(json.loads(path_of(id).read_text(encoding="utf-8")))
    REMADE.write_text(json.dumps(dict(sorted(noted.items())), indent=1) + "\n", encoding="utf-8")


def values_sha256(content):
    """Of the balls alone: notes on where they come from may be added to a file."""
    return problem_sha256({"values": content["values"]})


def progress(started):
    """Shows on a terminal where a proof is."""
    if not sys.stderr.isatty():
        return None

    def report(what, t):
        sys.stderr.write(f"\r  {what:8} t = {float(t):10.4f}   {time.monotonic() - started:6.0f} s ")
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID", help="problems, such as lotka_volterra/terminal")
    parser.add_argument("--all", action="store_true", help="every problem")
    parser.add_argument("--compare", action="store_true", help="make again and require overlap; nothing is written")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes beside each other (1)")
    options = parser.parse_args()
    ids = [id for id in REFERENCE_PROBLEMS if options.compare or not is_current(id)] if options.all else options.ids
    ids.sort(key=lambda id: any(part in id for part in LAST))
    unknown = [id for id in ids if id not in REFERENCE_PROBLEMS]
    if unknown or not (ids or options.all):
        parser.error(f"not a reference problem: {', '.join(unknown)}" if unknown else "name problems, or --all")
    if options.jobs > 1:
        with concurrent.futures.ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            made = list(_noted(ids, pool.map(_made, ids, [options.compare] * len(ids)), options.compare))
    else:
        made = list(_noted(ids, (_made(id, options.compare) for id in ids), options.compare))
    sys.exit(0 if all(made) else 1)


def _noted(ids, made, compare):
    """What became of each, passed on; overlaps are noted here, in one process."""
    for id, good in zip(ids, made):
        if compare and good:
            note_remade(id)
        yield good


def _made(id, compare):
    """Makes one and says how it went."""
    started = time.monotonic()
    try:
        content = remake(id, progress(started))
    except ArithmeticError as error:
        print(f"{id:36} FAILED   {error}", flush=True)
        return False
    if compare:
        apart = overlaps(content, json.loads(path_of(id).read_text(encoding="utf-8")))
        print(f"{id:36} {'overlaps' if not apart else 'DIFFERS in ' + ', '.join(apart)}"
              f"   {time.monotonic() - started:.0f} s", flush=True)
        return not apart
    written(id, content)
    made = content["provenance"]
    print(f"{id:36} radius {max(map(float, made['relative_radius'].values())):.1e}   order {made['order']}   "
          f"{made['bits']} bits   {made['steps']} steps   {time.monotonic() - started:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
