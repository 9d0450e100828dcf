"""The commands `refnode problems` and `refnode solve`."""
import fnmatch
import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from refnode.errors import InvalidInputError
from refnode.disk_cache import package_root

OK = 0
WIDTH = 100


def add_problems(command):
    """The options of `refnode problems`."""
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the reference problems, one a line")
    listing.add_argument("pattern", nargs="?", default="*", help="ids; * and ? stand for any characters")
    listing.set_defaults(run=run_list)
    showing = actions.add_parser("show", help="one problem: equations, times, loss, what it exposes, certified values")
    showing.add_argument("id")
    showing.set_defaults(run=run_show)
    _export_options(actions.add_parser("export", help="problem files for programs in any language"))
    certifying = actions.add_parser("certify", help="make certified values again, and compare (extra certify)")
    certifying.add_argument("id")
    certifying.set_defaults(run=run_certify)


def _export_options(exporting):
    exporting.add_argument("folder", metavar="DIR")
    exporting.add_argument("--problems", default="*", metavar="PATTERN", help="ids; * and ? stand for any characters")
    exporting.add_argument("--format", choices=("json", "npz"), default="json")
    exporting.add_argument("--mode", choices=("tolerance", "fixed"), default="tolerance",
                           help="fixed: with a tableau and steps, so that answers agree to rounding")
    exporting.add_argument("--rtol", type=float, default=1e-10, help="asked for, in mode tolerance (default: 1e-10)")
    exporting.add_argument("--method", default="rk4", help="of mode fixed: an explicit Runge-Kutta method (default: rk4)")
    exporting.add_argument("--steps", type=int, default=200, help="of mode fixed, at least (default: 200)")
    exporting.set_defaults(run=run_export)


def add_solve(command):
    """The options of `refnode solve`."""
    command.add_argument("problem", help="a problem file, or the id of a reference problem")
    command.add_argument("-o", "--output", metavar="FILE", help="answer.json or answer.npz (default: print JSON)")
    command.add_argument("--recipe", default="discrete", help="sensitivity recipe (default: discrete)")
    command.add_argument("--method", default="dop853", help="explicit Runge-Kutta method (default: dop853)")
    command.add_argument("--rtol", type=float, help="default: that of the file, or 1e-10")
    command.add_argument("--atol", type=float, help="default: that of the file, or 1e-12")
    command.set_defaults(run=run_solve)


def records_matching(pattern):
    """The reference problems whose ids match.

    Raises
    ------
    InvalidInputError
        If none does.
    """
    from refnode.problems.reference_set import REFERENCE_PROBLEMS
    found = [record for id, record in REFERENCE_PROBLEMS.items() if fnmatch.fnmatchcase(id, pattern)]
    if not found:
        groups = sorted({id.split("/")[0] for id in REFERENCE_PROBLEMS})
        raise InvalidInputError(f"no reference problem matches {pattern!r}; there are {', '.join(f'{g}/*' for g in groups)}")
    return found


def data_of(name):
    """The problem in a file, or of the reference set, as data."""
    from refnode.interchange.problem_file import checked_problem, read_problem
    if os.path.exists(name) or Path(name).suffix in (".json", ".npz"):
        return read_problem(name)
    records = records_matching(name)
    if len(records) > 1:
        raise InvalidInputError(f"{name!r} is {len(records)} problems, one is expected here")
    return checked_problem(records[0].to_dict())


def certified_of(record):
    """The certified values of a problem, or None."""
    from refnode.problems.certified import certified
    try:
        return certified(record.id)
    except InvalidInputError:
        return None


# --- list and show --------------------------------------------------------------------------------

def run_list(options):
    """One line for each problem."""
    from refnode.problems.certified import certified_ids
    records, proven = records_matching(options.pattern), set(certified_ids())
    width = max(len(record.id) for record in records)
    print(f"{'id':<{width}}  {'n':>4} {'p':>5} {'times':>5}  {'horizon':<16}  {'loss':<8}  {'kappa':>7}  certified")
    for record in records:
        times = 1 if record.ts is None else len(record.ts)
        kappa = "-" if record.kappa is None else f"{record.kappa:.2g}"
        shipped = "yes" if record.id in proven else "no"
        print(f"{record.id:<{width}}  {len(record.y0):>4} {len(record.theta):>5} {times:>5}  "
              f"{f'[{record.t0:g}, {record.t1:g}]':<16}  {record.loss['kind']:<8}  {kappa:>7}  "
              f"{shipped}")
    return OK


def run_show(options):
    """Everything there is to know about one problem."""
    (record, *others) = records_matching(options.id)
    if others:
        raise InvalidInputError(f"{options.id!r} is {1 + len(others)} problems, one is expected here")
    for key, text in (("id", record.id), ("note", record.note), *_right_hand_side(record.rhs),
                      ("y0", _numbers(record.names["y"], record.y0)), ("theta", _numbers(record.names["theta"], record.theta)),
                      ("time", f"{record.t0:g} to {record.t1:g}"),
                      ("observed", "at the end" if record.ts is None else ", ".join(f"{t:g}" for t in record.ts)),
                      ("loss", _shortened(str(record.loss))), ("exposes", ", ".join(record.exposes)),
                      ("zero", ", ".join(record.zero) or "no derivative vanishes on purpose"),
                      ("kappa", "not measured" if record.kappa is None else f"{record.kappa:.3g}"),
                      ("sha256", record.to_dict()["sha256"]), *_certified_lines(record)):
        print(textwrap.fill(text, WIDTH, initial_indent=f"{key:<12}", subsequent_indent=" " * 12))
    return OK


def _right_hand_side(rhs):
    if "expr" in rhs:
        return [(f"dy[{i}]/dt", _shortened(text)) for i, text in enumerate(rhs["expr"])]
    if "pieces" in rhs:
        from refnode.problems.reference_problem import switches_of
        ends = [f"before {kind} {where}" for switch in switches_of(rhs) for kind, where in switch.items()]
        return [("" if number else "rhs", f"{end}: {', '.join(piece['expr'])}")
                for number, (end, piece) in enumerate(zip([*ends, "after"], rhs["pieces"]))]
    return [("rhs", str(rhs))]


def _numbers(names, values):
    return _shortened(", ".join(f"{name} = {value:.9g}" for name, value in zip(names, values)))


def _shortened(text, most=600):
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _certified_lines(record):
    found = certified_of(record)
    if found is None:
        return [("certified", "no values yet")]
    made = found.provenance
    return [("certified", f"{made['method']}; order {made['order']}, {made['bits']} bits, {made['steps']} steps"),
            *((name, _shortened(", ".join(_figures(entry)))) for name, entry in found.entries.items() if entry)]


def _figures(entry):
    """Twenty figures of every entry of a certified value."""
    if isinstance(entry, dict):
        mantissa, _, exponent = entry["mid"].partition("e")
        return [(mantissa if len(mantissa) <= 22 else f"{mantissa[:22]}..") + (f"e{exponent}" if exponent else "")]
    return [text for inner in entry for text in _figures(inner)]


# --- export, certify, solve -----------------------------------------------------------------------

def run_export(options):
    """One file for each problem, named by its id."""
    from refnode.interchange.problem_file import checked_problem, write_problem
    from refnode.given_steps import with_given_steps
    records = records_matching(options.problems)
    os.makedirs(options.folder, exist_ok=True)
    for record in records:
        data = record.to_dict()
        if options.mode == "fixed":
            if "pieces" in record.rhs:
                print(f"{record.id}: left out, a right-hand side with a switch has no given steps", file=sys.stderr)
                continue
            data = with_given_steps(data, options.method, options.steps)
        else:
            data = checked_problem({**data, "solver": {"mode": "tolerance", "rtol": options.rtol, "atol": options.rtol}})
        path = Path(options.folder) / f"{record.id.replace('/', '__')}.{options.format}"
        write_problem(data, path)
        print(path)
    return OK


def run_certify(options):
    """Make the certified values of problems again, in ball arithmetic, and compare them with those that are shipped."""
    script = package_root().parent / "validation" / "certify" / "certify.py"
    if not script.exists():
        raise InvalidInputError("certify needs a checkout of refnode, with its folder validation/certify")
    if importlib.util.find_spec("flint") is None:
        raise InvalidInputError("certify needs python-flint: pip install python-flint, or refnode with its extra `certify`")
    records = [record for record in records_matching(options.id) if certified_of(record) is not None]
    if not records:
        raise InvalidInputError(f"no problem that matches {options.id!r} has certified values to compare with")
    return subprocess.run([sys.executable, str(script), *(record.id for record in records), "--compare"]).returncode


def run_solve(options):
    """refnode's own answer to a problem."""
    from refnode.interchange.answer_file import write_answer
    from refnode.interchange.json_text import json_text
    from refnode.own_answer import answer_of
    answer = answer_of(data_of(options.problem), sensitivity=options.recipe, method=options.method, rtol=options.rtol,
                       atol=options.atol)
    if options.output is None:
        sys.stdout.write(json_text(answer))
        return OK
    write_answer(answer, options.output)
    print(options.output)
    return OK
