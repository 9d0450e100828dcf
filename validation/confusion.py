"""Claim: a wrong gradient is caught and its mistake named; a right one is never called wrong.

Every mistake of `refnode.conformance.wrong_adjoints` on every reference problem on which it changes the gradient, and
every correct recipe of refnode on every reference problem. Prints a Markdown sheet; `--write` puts it among the results.
"""
import argparse
import collections
import dataclasses
import functools
import json
import pathlib
import sys
import time
import warnings

import numpy as np

import refnode
from refnode.conformance.check_ode import QUANTITIES, case_of, checked_quantities
from refnode.conformance.ode_diagnosis import MISTAKES
from refnode.conformance.metamorphic import TRANSFORMATIONS
from refnode.conformance.program_check import check_program
from refnode.conformance.score import tolerance_floor
from refnode.conformance.wrong_adjoints import AFTERWARDS, WRONG_ADJOINTS, adjoint_answer, wrong_answer
from refnode.conformance.wrong_steps import WRONG_STEPS, applies
from refnode.problems.reference_set import REFERENCE_PROBLEMS
from refnode.sensitivity.recipes import RECIPES

RESULT = pathlib.Path(__file__).parent / "results" / "confusion.md"
TOLERANCE = 1e-9
SINGLE = {"rtol": 1e-9, "tolerance": 1e-12}   # asked for, and computed at, where float32 is to be seen: at 1e-9 nobody would notice
HARMLESS = 10.0            # a mistake that moves the gradient by less than this many bounds is none on this problem
BEHAVIOUR = ("low_order_interpolation", "first_order_quadrature", "quadrature_not_controlled", "backsolve_drift",
             "absolute_tolerance_on_adjoint", "error_independent_of_tolerance", "time_cast_to_single", *WRONG_STEPS)
LEAKS = ("step_heuristic_leak", "differentiated_step_control")
PROGRAMS = {**WRONG_ADJOINTS, **WRONG_STEPS}
AS_PROGRAM = "scipy_adjoint[right] as a program"
RIGHT_TOLERANCES = (1e-6, 1e-9)
PATIENCE = 150.0          # seconds of processor time for all mistakes on one problem


class Bench:
    """One problem with what its mutants share: the case, the right answer, the forward solves."""

    def __init__(self, id):
        self.case, self.solved = case_of(id, checked_quantities(QUANTITIES)), {}
        self.data, self.unit = self.case.data, min(1.0, self.case.reference.state_size)
        self.right = adjoint_answer(self.data, TOLERANCE, TOLERANCE * self.unit, solved=self.solved)

    def answer(self, mistake, data=None, tolerance=TOLERANCE):
        """Of the program with this mistake."""
        data = self.data if data is None else data
        return self.program(mistake)(data, tolerance, tolerance * self.unit)

    def program(self, mistake):
        if mistake in WRONG_STEPS:
            return WRONG_STEPS[mistake]
        return functools.partial(wrong_answer, mistake=mistake, solved=self.solved)

    def moved(self, judged, right):
        """Whether the mistake moved the gradient by more than it may from the right answer."""
        with np.errstate(invalid="ignore"):
            return bool(np.any(np.abs(judged.answer.gradient - right.answer.gradient) > self.harmless(judged.level)))

    def harmless(self, level):
        """How far a gradient is moved harmlessly: `HARMLESS` bounds, or what absolute tolerances excuse so many times."""
        case, inputs = self.case, self.case.inputs
        floor = tolerance_floor(inputs.size, inputs.n, case.problem.theta.size, case.reference.cotangent_size,
                                case.reference.state_size, level.atol)
        return HARMLESS * np.maximum(level.accepted * case.units, floor)


def mutant_row(bench, mistake):
    """(outcome, names found) of one mistake on one problem; outcome "harmless", or a verdict."""
    case, right = bench.case, bench.right
    if mistake == "loss_time_derivative_missing" and "ts" not in right["grad"]:
        return "harmless", []
    if mistake in WRONG_STEPS and not applies(bench.data, mistake):
        return "harmless", []
    if mistake == "single_precision":
        return single_row(bench)
    if mistake in AFTERWARDS:
        answer = {**right, "grad": {k: np.asarray(v).tolist() for k, v in AFTERWARDS[mistake](bench.data, right["grad"]).items()}}
    else:
        answer = bench.answer(mistake)
    judged, base = case.judged(answer), case.judged(right)
    harmless = not judged.answer.faults and not bench.moved(judged, base)
    if harmless and not (mistake == "absolute_tolerance_on_adjoint" and moved_when_scaled(bench, mistake, judged)):
        return "harmless", []
    if mistake in LEAKS and not judged.answer.faults and bench.moved(case.judged(bench.answer("uncontrolled_tangent")), base):
        return "harmless", []                       # the steps themselves are at fault here: another mistake
    report = check_program(case, bench.program(mistake), True, None) if mistake in BEHAVIOUR else case.report(judged, True)
    return report.verdict, [f.key for f in report.diagnosis if f.key]


def single_row(bench):
    """Rounding to float32, where the rest is accurate enough to show it."""
    case = dataclasses.replace(bench.case, rtol=SINGLE["rtol"])
    right = bench.answer(None, tolerance=SINGLE["tolerance"])
    base = case.judged(right)
    judged = case.judged({**right, "grad": {k: np.asarray(v).tolist() for k, v in
                                            AFTERWARDS["single_precision"](bench.data, right["grad"]).items()}})
    if base.verdict != "PASS" or not bench.moved(judged, base):
        return "harmless", []
    report = case.report(judged, True)
    return report.verdict, [f.key for f in report.diagnosis if f.key]


def moved_when_scaled(bench, mistake, judged):
    """Whether the mistake moves the gradient of the loss times 2^-30."""
    gradient = {key: np.array(bench.right["grad"][key]) for key in ("y0", "theta")}
    data, expected, _ = TRANSFORMATIONS[0].apply({k: v for k, v in bench.data.items() if k != "sha256"}, gradient, 0.0)
    answer = bench.answer(mistake, data)
    apart = np.concatenate([np.abs(np.array(answer["grad"][k]) - v) for k, v in expected.items()])
    return bool(np.any(apart * 2.0 ** 30 > bench.harmless(judged.level)[:apart.size]))


def unit_of(case):
    return min(1.0, case.reference.state_size)


def recipe_answer(problem, name, tolerance, own):
    """The answer of one of refnode's recipes, as data."""
    options = {"rtol": tolerance, "atol": tolerance * min(1.0, float(np.max(np.abs(problem.y0), initial=0.0)) or 1.0)}
    g = refnode.gradient(problem, name, method="dop853", **options, **own)
    grad = {"y0": g.y0.tolist(), "theta": g.theta.tolist(), "t0": g.t0, "t1": g.t1}
    if not problem.ts_is_t1:
        grad["ts"] = g.ts.tolist()
    return {"y": g.solution.y.tolist(), "loss": g.loss, "grad": grad, "tool": {"name": f"refnode {name}"},
            "stats": {"rtol": tolerance, "atol": options["atol"]}}


def recipe_rows(id, case):
    """(recipe, tolerance, verdict, warned, E) of every recipe on one problem."""
    ways = [(name, name, {"check_tangent": True} if "check_tangent" in recipe.options else {})
            for name, recipe in RECIPES.items() if recipe.reversal != "inverted"]      # it takes fixed steps of a method of its own
    ways += [(f"{name} control=tangent", name, {"control": "tangent"}) for name in ("discrete", "discrete_forward")]
    for title, name, own in ways:
        for tolerance in RIGHT_TOLERANCES:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", refnode.GradientWarning)
                try:
                    answer = recipe_answer(case.problem, name, tolerance, own)
                except refnode.RefnodeError as fault:
                    yield title, tolerance, "refused", f"{type(fault).__name__}", None
                    continue
            judged = case.judged(answer)
            yield title, tolerance, judged.verdict, "warned" if caught else "", judged.error


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", default="", help="only ids that contain this")
    parser.add_argument("--mistakes", default="", help="only these, with commas")
    parser.add_argument("--rows", type=pathlib.Path, help="file of rows, one JSON a line: problems in it are not run again")
    parser.add_argument("--only-rows", action="store_true", help="make the sheet of the rows there are; run nothing")
    parser.add_argument("--skip-recipes", action="store_true")
    parser.add_argument("--skip-mistakes", action="store_true", help="refnode's recipes alone; their rows belong in a file of their own")
    parser.add_argument("--rights", type=pathlib.Path, help="file of rows made with --skip-mistakes, for the sheet")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    ids = [id for id in REFERENCE_PROBLEMS if args.problems in id]
    mistakes = [m for m in PROGRAMS if not args.mistakes or m in args.mistakes.split(",")]
    mistakes.sort(key=lambda m: m in BEHAVIOUR)                # the dear ones last
    rows = {row["id"]: row for row in map(json.loads, args.rows.read_text().splitlines())} if (
        args.rows and args.rows.exists()) else {}
    for id in ids:
        if id not in rows and not args.only_rows:
            rows[id] = row_of(id, [] if args.skip_mistakes else mistakes, not args.skip_recipes)
            if args.rows:
                with args.rows.open("a") as file:
                    file.write(json.dumps(rows[id]) + "\n")
    for row in map(json.loads, args.rights.read_text().splitlines() if args.rights else ()):
        rows[row["id"]]["rights"] += row["rights"][1:]          # the first is the SciPy adjoint again
    sheet = sheet_of([rows[id] for id in ids if id in rows])
    print(sheet)
    if args.write:
        RESULT.write_text(sheet, encoding="utf-8")


def row_of(id, mistakes, recipes):
    """Everything about one problem, as plain data."""
    started, row = time.process_time(), {"id": id, "source": "", "left_out": "", "mutants": [], "rights": []}
    try:
        bench = Bench(id)
    except Exception as fault:                                  # noqa: BLE001
        return {**row, "left_out": f"{type(fault).__name__}: {str(fault).splitlines()[0][:90]}"}
    case = bench.case
    row["source"] = case.reference.source.split(",")[0]
    row["rights"].append(["scipy_adjoint[right]", TOLERANCE, case.judged(bench.right).verdict, "", case.judged(bench.right).error])
    for mistake in mistakes:
        if time.process_time() - started > PATIENCE:
            row["left_out"] = f"mistakes from {mistake} on, after {PATIENCE:.0f} s"
            break
        try:
            verdict, names = mutant_row(bench, mistake)
        except Exception as fault:                              # noqa: BLE001
            verdict, names = "no answer", [type(fault).__name__]
        row["mutants"].append([mistake, verdict, names])
        print(id, mistake, verdict, names, f"{time.process_time() - started:.1f}", file=sys.stderr, flush=True)
    if recipes:
        report = check_program(case, bench.program(None), True, None)        # at four tolerances, and on transformed problems
        row["rights"].append([AS_PROGRAM, TOLERANCE, report.verdict, "", report.error])
        row["rights"] += list(recipe_rows(id, case))
    row["seconds"] = round(time.process_time() - started, 1)
    return row


def sheet_of(table):
    """The Markdown page."""
    count, sources = len(table), collections.Counter(row["source"] for row in table if row["source"])
    head = ["# Confusion matrix of the diagnosis", "", __doc__.split("\n\n")[0], "",
            f"`python validation/confusion.py --write`, refnode {refnode.__version__}, {count} of {len(REFERENCE_PROBLEMS)} problems"
            + (" (the others have not been run)" if count < len(REFERENCE_PROBLEMS) else "") + "; references: "
            + ", ".join(f"{source} ({n})" for source, n in sources.items()) + ". "
            f"{sum(row.get('seconds', 0.0) for row in table) / 60:.0f} minutes of processor time.", "", LEGEND, ""]
    left_out = [f"- `{row['id']}`: {row['left_out']}" for row in table if row["left_out"]]
    return "\n".join([*head, *_mistake_lines(table), "", *_right_lines(table, count), "", "## Left out", "",
                      *(left_out or ["nothing"]), ""])


LEGEND = f"""Mistakes are those of a SciPy adjoint at tolerance {TOLERANCE:g} and, for steps that see the state alone or are differentiated, of
a Dormand-Prince loop in complex numbers; neither shares code with refnode's solvers. *Harmless*: the mistake cannot be made on this
problem, or moves no component of its gradient by {HARMLESS:g} bounds,
or stays within {HARMLESS:g} times what absolute tolerances excuse. *First*: its key stands first in the diagnosis. *Tied*: its key stands
beside others, because on this problem the mistakes have the same gradient (without its only jump a gradient is zero; with one equation
to drop, theta was never differentiated), or, marked *, because errors at four tolerances do not tell them apart; the report joins them by
"or". *Named* is first or tied. Mistakes marked * are shown by a program at several tolerances, the others by one answer. *No answer*: the
wrong program itself ends with an exception, which is its own report.

`single_precision` is a gradient of tolerance {SINGLE["tolerance"]:g} rounded to float32 and judged at rtol {SINGLE["rtol"]:g}. `hidden_forcing` is the program of
`uncontrolled_tangent` where a parameter is zero. `step_heuristic_leak` and `differentiated_step_control` are counted where the steps themselves
serve the tangent: what they add falls with the tolerance, and at {TOLERANCE:g} shows only where the estimated error is 0, whose root has no
derivative (`differentiated_step_control` is then NaN, as in real libraries). `batch_dilution` is the norm of a batch of 4096 of which one sample moves: it
weakens the tolerance by at most 64, which is less than the 1000 kappa tol that healthy programs are allowed, so that it shows only near
the stability limit of the solver. On problems with a switch the known gradients come from the same SciPy adjoint as the mistakes."""


def _mistake_lines(table):
    outcomes, total, bad = collections.defaultdict(list), collections.Counter(), []
    for row in table:
        for mistake, verdict, names in row["mutants"]:
            outcomes[mistake].append((row["id"], verdict, names))
    lines = ["| mistake | applies | FAIL | INCONCLUSIVE | PASS | first | tied | not named | harmless | no answer |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for mistake, rows in outcomes.items():
        applied = [(id, v, names) for id, v, names in rows if v in ("FAIL", "INCONCLUSIVE", "PASS", "ERROR")]
        tally = collections.Counter(verdict for _, verdict, _ in rows)
        first = sum(names[:1] == [mistake] for _, _, names in applied)
        tied = sum(mistake in names for _, _, names in applied) - first
        counts = {"applies": len(applied), "FAIL": tally["FAIL"], "INCONCLUSIVE": tally["INCONCLUSIVE"] + tally["ERROR"],
                  "PASS": tally["PASS"], "first": first, "tied": tied, "not named": len(applied) - first - tied,
                  "harmless": tally["harmless"], "no answer": tally["no answer"]}
        total.update(counts)
        bad += [(mistake, id, v, names) for id, v, names in applied if mistake not in names or v != "FAIL"]
        star = " *" if mistake in BEHAVIOUR else ""
        lines.append(f"| `{mistake}`{star} | " + " | ".join(str(n) for n in counts.values()) + " |")
    lines.append("| **all** | " + " | ".join(str(total[key]) for key in COLUMNS) + " |")
    share = 100.0 / max(total["applies"], 1)
    return lines + ["", f"Caught (not PASS): {share * (total['applies'] - total['PASS']):.1f} %. FAIL: {share * total['FAIL']:.1f} %. "
                    f"Named first: {share * total['first']:.1f} %; named first or tied: {share * (total['first'] + total['tied']):.1f} %.", "",
                    "Mistakes of the dictionary without a mutant here: " + (
                        ", ".join(f"`{m}`" for m in MISTAKES if m not in outcomes) or "none") + ".", "",
                    "## Not named, or not FAIL", "", "| mistake | problem | verdict | diagnosis |", "|---|---|---|---|",
                    *([f"| `{m}` | {id} | {v} | {', '.join(names) or '-'} |" for m, id, v, names in bad] or ["| none | | | |"])]


COLUMNS = ("applies", "FAIL", "INCONCLUSIVE", "PASS", "first", "tied", "not named", "harmless", "no answer")


def _right_lines(table, count):
    rights = [(row["id"], *right) for row in table for right in row["rights"]]
    tally = collections.Counter((v, warned) for _, _, _, v, warned, _ in rights)
    wrong = collections.defaultdict(list)
    for id, name, tolerance, verdict, warned, error in rights:
        if verdict == "FAIL":
            wrong[id].append(f"{name} at {tolerance:g}: {error:.1e}{' (warned)' if warned else ''}")
    return ["## Right gradients", "",
            (f"The SciPy adjoint, and refnode's recipes (dop853, tolerances {RIGHT_TOLERANCES}): {len(rights)} answers."
             if len(rights) > count else f"The SciPy adjoint on every problem: {len(rights)} answers. refnode's recipes were "
             "not run this time (`--skip-recipes`)."), "",
            "| verdict | refnode said | answers |", "|---|---|---|",
            *[f"| {v} | {warned or '-'} | {n} |" for (v, warned), n in sorted(tally.items())], "",
            "Every FAIL, with E, the relative error of the gradient by the certified value: each is a gradient that is wrong, not one "
            "that is called wrong.", "", "| problem | recipes |", "|---|---|",
            *([f"| {id} | {'; '.join(found)} |" for id, found in wrong.items()] or ["| none | |"])]


if __name__ == "__main__":
    main()
