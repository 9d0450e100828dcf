"""The command line: its commands, and the exit status."""
import argparse
import functools
import importlib
import importlib.util
import os
import platform
import sys
import time

from refnode import cli_check, cli_conform, cli_problems, cuda_device
from refnode._version import __version__
from refnode.errors import InvalidInputError, ProblemFileError, RefnodeError

OK, FAILED, USAGE, INCONCLUSIVE, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments=None):
    """Run a command; returns the exit status: 0 pass, 1 fail, 2 usage, 3 inconclusive, 130 interrupted."""
    try:
        options = parser().parse_args(arguments)
        return options.run(options)
    except (InvalidInputError, ProblemFileError) as error:
        print(f"refnode: {error}", file=sys.stderr)
        return USAGE
    except RefnodeError as error:
        print(f"refnode: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")      # the reader left; say nothing more
        return FAILED
    except KeyboardInterrupt:
        print("\nrefnode: interrupted", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """One clear line for a usage error."""

    def error(self, message):
        self.exit(USAGE, f"{self.prog}: {message}; try {self.prog} --help\n")


def parser():
    """The parser of all commands."""
    top = _Parser(prog="refnode", description="Neural ODEs with every derivative written by hand and proved.")
    top.add_argument("--version", action="version", version=f"refnode {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _validate_options(commands.add_parser("validate", help="hold every derivative against independent evidence"))
    methods = commands.add_parser("methods", help="the sensitivity recipes: what each computes, costs, and is not for")
    methods.set_defaults(run=run_methods)
    _demo_options(commands.add_parser("demo", help="train a small model, with figures"))
    cli_problems.add_problems(commands.add_parser("problems", help="the reference problems: list, show, export, certify"))
    cli_problems.add_solve(commands.add_parser("solve", help="refnode's own answer to a problem file"))
    cli_check.add_check(commands.add_parser("check", help="judge the gradient of another program"))
    cli_conform.add_conform(commands.add_parser("conform", help="hold other libraries' gradients against the reference problems"))
    cache = commands.add_parser("cache", help="the disk cache of compiled functions")
    cache.add_argument("action", choices=("info", "clear"))
    cache.set_defaults(run=run_cache)
    commands.add_parser("doctor", help="facts about this installation").set_defaults(run=run_doctor)
    return top


def run_methods(options):
    """Print the table of recipes."""
    from refnode.methods_table import methods_text
    print(methods_text())
    return OK


# --- validate --------------------------------------------------------------------------------------

def _validate_options(command):
    names = "comma-separated names; * and ? stand for any characters"
    command.add_argument("--fields", default="*", help=f"fields and problems: {names}")
    command.add_argument("--methods", default="*", help=f"steppers: {names}")
    command.add_argument("--recipes", default="*", help=f"sensitivity recipes: {names}")
    command.add_argument("--output", default="report", metavar="DIR", help="folder of the report (default: report)")
    command.add_argument("--seed", type=_seed, default=0, help="of all random points and directions (default: 0)")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: hold the GPU against the CPU")
    command.add_argument("--quick", action="store_true", help="few problems and methods")
    command.add_argument("--no-figures", action="store_true", help="a report without figures")
    command.add_argument("--quiet", action="store_true", help="no progress, and only rows that did not pass")
    command.set_defaults(run=run_validate)


def _seed(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"the seed must be a whole number >= 0, found {text!r}")
    return int(text)


def run_validate(options):
    """All evidence, the table, the report; 1 if any row is FAIL or ERROR."""
    from refnode import report, validate
    from refnode.evidence import table
    started = time.perf_counter()
    selection = validate.select(options.fields, options.methods, options.recipes, options.seed, options.quick,
                                cuda_device.chosen_device(options.device))
    require_folder(options.output)
    progress = table.Progress(quiet=options.quiet)
    outcome = validate.run(selection, progress, validate.workers_for(selection))
    colour = table.wants_colour(sys.stdout)
    for line in table.table_lines(outcome, colour=colour, quiet=options.quiet):
        print(line)
    path = report.write_report(outcome, options.output, not options.no_figures,
                               lambda name: progress.say(f"drawing {name}"))
    progress.wipe()
    print(table.totals_line(outcome, colour, path, time.perf_counter() - started), flush=True)
    return outcome.exit_code


def require_folder(path):
    """Refuse an output folder that cannot be made, before any work is done."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"--output {path}: {error.strerror}") from error


# --- demo ------------------------------------------------------------------------------------------

def _demo_options(command):
    command.add_argument("name", nargs="?", help="which; --list says what there is")
    command.add_argument("--list", action="store_true", help="name the demonstrations, and what each shows")
    command.add_argument("--output", metavar="DIR", help="folder of the result (default: the demonstration's name)")
    command.add_argument("--recipe", default="discrete", help="sensitivity recipe (default: discrete)")
    command.add_argument("--seed", type=_seed, default=0, help="of data, parameters and batches (default: 0)")
    command.add_argument("--iterations", type=int, help="of training, where an iteration has new data, or all")
    command.add_argument("--epochs", type=int, help="of training: how often every sample is seen; or the same as iterations")
    command.add_argument("--method", help="stepper of the solves")
    command.add_argument("--rtol", type=float, help="relative tolerance of the solves")
    command.add_argument("--atol", type=float, help="absolute tolerance of the solves")
    command.add_argument("--data", metavar="DIR", help="folder with data to take instead of what is shipped")
    command.add_argument("--dataset", metavar="NAME", help="which of the data sets that a demonstration knows")
    command.add_argument("--quiet", action="store_true", help="print nothing")
    command.set_defaults(run=run_demo)


def run_demo(options):
    """Train the model of the demonstration, say where its pictures are, and return what became of its gradient's check."""
    from refnode import demos
    if options.list or options.name is None:
        for name, demo in demos.DEMOS.items():
            print(f"{name:<12} {demo.shows}")
        return OK
    given = {name: value for name in demos.OPTIONS if (value := getattr(options, name)) is not None}
    progress = None if options.quiet else functools.partial(print, flush=True)
    result = demos.run(options.name, options.output or options.name, options.recipe, options.seed, progress, **given)
    for path in () if options.quiet else result.files:
        print(path)
    return {"PASS": OK, "INCONCLUSIVE": INCONCLUSIVE, "FAIL": FAILED}[demos.verdict_of(result)]


# --- doctor and cache ------------------------------------------------------------------------------

def run_cache(options):
    """Print, or remove, the cache of compiled functions."""
    from refnode.disk_cache import cache_clear, cache_info
    info = cache_clear() if options.action == "clear" else cache_info()
    verb = "removed" if options.action == "clear" else "holds"
    print(f"{info['path']}\n{verb} {info['files']} files, {info['bytes'] / 2**20:.1f} MiB")
    return OK


def run_doctor(options):
    """Print what there is, without judging it."""
    for name, value in installation():
        print(f"{name:<12} {value}")
    return OK


def tiles_text():
    """Where a block of a GPU keeps its samples of a perceptron with two hidden layers, for a gradient in double precision."""
    import bisect
    from refnode.fields.neural import mlp_field
    from refnode.solve.perceptron_tile_cuda import SHARED_BYTES, TileSizes
    from refnode.steppers.tableaus import tableau
    sizes = lambda width: TileSizes(tableau("dopri5"), mlp_field((2, width, width, 2), "tanh").perceptron, 2, "float64", sweep=True)
    widest = lambda beyond: bisect.bisect_left(range(4096), True, lo=1, key=lambda width: beyond(sizes(width))) - 1
    return (f"{SHARED_BYTES // 1024} KiB of shared memory a block: perceptrons 2-w-w-2 with their weights to w = "
            f"{widest(lambda found: not found.resident)}, without to {widest(lambda found: found.streamed)}, streamed beyond")


def installation():
    """(name, fact) pairs."""
    import numba
    from refnode.disk_cache import cache_info, package_root
    yield "refnode", f"{__version__} in {package_root()}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in ("numpy", "numba", "scipy", "matplotlib"):
        yield name, importlib.import_module(name).__version__
    for name, what in (("sympy", "VectorField.from_expressions"), ("mpmath", "tests")):
        yield name, ("found" if importlib.util.find_spec(name) else "not installed") + f" (optional: {what})"
    cache = cache_info()
    yield "cache", f"{cache['path']}, {cache['files']} files, {cache['bytes'] / 2**20:.1f} MiB"
    yield "threads", f"{numba.config.NUMBA_NUM_THREADS} (NUMBA_NUM_THREADS), {os.cpu_count()} processors"
    yield "CUDA", cuda_device.facts()
    yield "CUDA tiles", tiles_text()
    yield "JIT", "off (NUMBA_DISABLE_JIT)" if numba.config.DISABLE_JIT else "on"
