"""The command `refnode check`: an answer file, a program in any language, or a Python function."""
import importlib
import os
import re
import shlex
import sys
from pathlib import Path

from refnode.errors import InvalidInputError

OK, FAILED, USAGE, INCONCLUSIVE = 0, 1, 2, 3
EXIT_CODES = (("FAIL", FAILED), ("ERROR", FAILED), ("INCONCLUSIVE", INCONCLUSIVE), ("PASS", OK))
EVERYTHING = 10**6          # rows of a report
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def add_check(command):
    """The options of `refnode check`."""
    command.add_argument("answer", nargs="?", help="answer.json, answer.npz, or module:function")
    command.add_argument("--problem", metavar="ID", help="reference problems (* and ? stand for any characters), or a problem "
                         "file; an answer file alone names its problem by its hash")
    command.add_argument("--cmd", metavar="PROGRAM", help="reads a problem on standard input, writes its answer on standard "
                         "output")
    command.add_argument("--seconds", type=float, default=60.0, help="time limit of the program for one problem (default: 60)")
    command.add_argument("--rtol", type=float, help="accuracy asked of the gradient (default: what the problem allows)")
    command.add_argument("--report", metavar="FILE", action="append", default=[],
                         help="also write the report, as .txt, .json, .md, .html or .xml; may be repeated")
    command.add_argument("--all", action="store_true", help="every component in the table")
    command.set_defaults(run=run_check)


def run_check(options):
    """Judge, print, write; 0 pass, 1 fail or error, 3 inconclusive."""
    _require_sense(options)
    reports = {}
    for problem, answer in _cases(options):
        report = judged(problem, answer, options.rtol)
        report.settings["command"] = command_line(options, problem)
        reports[problem.id] = report
        print(report.to_text(rows=EVERYTHING) if options.all else report)
        for line in failure_lines(answer) if report.verdict == "ERROR" else ():
            print(f"  {line}")
        print(flush=True)
    if len(reports) > 1:
        print(totals_line(reports.values()))
    for path in options.report:
        _write(path, reports)
    return exit_code(reports.values())


def command_line(options, problem):
    """What repeats the check of one problem."""
    name = options.problem if os.path.exists(options.problem or "") else problem.id
    words = ["refnode", "check", "--problem", name]
    words += [options.answer] if options.cmd is None else ["--cmd", options.cmd]
    return shlex.join(words + ([] if options.rtol is None else ["--rtol", f"{options.rtol:g}"]))


def exit_code(reports):
    """Of the gravest verdict; a failure is graver than an error of one program among many."""
    verdicts = [report.verdict for report in reports]
    return next(code for verdict, code in EXIT_CODES if verdict in verdicts)


def totals_line(reports):
    """How many of each verdict."""
    verdicts = [report.verdict for report in reports]
    return f"{len(verdicts)} problems: " + ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict, _ in EXIT_CODES[::-1])


def judged(problem, answer, rtol=None):
    """The report on an answer, or a program, for one problem."""
    from refnode.given_steps import check_given_steps
    if problem.fixed:
        return check_given_steps(problem, answer, rtol)
    from refnode.conformance.check_ode import check_ode
    return check_ode(problem.record or problem, answer, rtol=rtol)


def failure_lines(answer):
    """What a program that failed said last."""
    last = getattr(answer, "last_failure", None)
    return [] if last is None else last.splitlines()


# --- what is asked --------------------------------------------------------------------------------

def _require_sense(options):
    if (options.cmd is None) == (options.answer is None):
        raise InvalidInputError("check needs an answer file, a module:function, or --cmd PROGRAM: one of them")
    if options.problem is None and (options.cmd is not None or _is_function(options.answer)):
        raise InvalidInputError("--problem says which problems to ask: an id such as lotka_volterra/obs21, a pattern, or a file")
    for path in options.report:
        if Path(path).suffix not in (".txt", ".json", ".md", ".html", ".xml"):
            raise InvalidInputError(f"--report {path}: expected a name that ends in .txt, .json, .md, .html or .xml")


def _is_function(text):
    return FUNCTION.fullmatch(text) is not None and not os.path.exists(text)


def _cases(options):
    """(problem, answer) pairs; an answer is a dictionary, or a function that gives one."""
    if options.cmd is not None:
        from refnode.interchange.external_program import ExternalProgram
        return [(problem, ExternalProgram(options.cmd, options.seconds)) for problem in problems_of(options.problem)]
    if _is_function(options.answer):
        function = imported(options.answer)
        return [(problem, function) for problem in problems_of(options.problem)]
    return [_answered(options.answer, options.problem)]


def problems_of(name):
    """The problem in a file, or the reference problems that match."""
    from refnode.cli_problems import records_matching
    from refnode.interchange.problem_file import read_problem
    from refnode.problems.problem_of_data import DataProblem
    if os.path.exists(name) or Path(name).suffix in (".json", ".npz"):
        return [DataProblem(read_problem(name))]
    return [DataProblem(record.to_dict()) for record in records_matching(name)]


def _answered(path, name):
    """The problem that an answer file answers, and the answer."""
    from refnode.interchange.answer_file import checked_answer, read_answer
    from refnode.problems.problem_of_data import DataProblem
    from refnode.problems.reference_set import REFERENCE_PROBLEMS
    answer = read_answer(path)
    if name is not None:
        found = problems_of(name)
        if len(found) > 1:
            raise InvalidInputError(f"--problem {name} is {len(found)} problems, one answer has one")
        checked_answer(answer, path, found[0].to_dict())
        return found[0], answer
    for record in REFERENCE_PROBLEMS.values():
        data = record.to_dict()
        if data["sha256"] == answer["problem_sha256"]:
            return DataProblem(data), answer
    raise InvalidInputError(f"{path}: no reference problem has the hash {answer['problem_sha256'][:12]}...; give --problem FILE")


def imported(name):
    """The function ``module:function``, from the current folder or the installed packages.

    Raises
    ------
    InvalidInputError
        If there is none, or its module cannot be imported.
    """
    module, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise InvalidInputError(f"{name}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise InvalidInputError(f"{name} must be a function answer(problem, rtol, atol), found {type(found).__name__}")
    return found


def _write(path, reports):
    from refnode.gradcheck.report_formats import write_report
    try:
        write_report(path, reports if len(reports) > 1 else next(iter(reports.values())))
    except OSError as error:
        raise InvalidInputError(f"--report {path}: {error.strerror}") from error
