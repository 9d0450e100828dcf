"""``refnode conform``: the conformance matrix from the command line."""
import shlex
import sys
from pathlib import Path

from refnode.errors import InvalidInputError


def add_conform(command):
    """The options of the command."""
    command.add_argument("tools", nargs="+", metavar="NAME", help="torchdiffeq, diffrax, torchode, casadi, autograd, scipy, "
                         "refnode, or the dotted path of an adapter")
    command.add_argument("--problems", default="*", help="comma-separated ids; * and ? stand for any characters")
    command.add_argument("--ways", default="*", metavar="TOOL:MODE:METHOD", help="comma-separated patterns (default: all)")
    command.add_argument("--tolerances", default="1e-6,1e-9", help="comma-separated (default: 1e-6,1e-9)")
    command.add_argument("--limit", type=float, default=30.0, metavar="SECONDS", help="processor time of one cell (default: 30)")
    command.add_argument("--jobs", type=int, default=1, help="libraries that work at once (default: 1)")
    command.add_argument("--matrix", action="append", default=[], metavar="FILE",
                         help="write the matrix; .html, .md or .json; may be repeated (default: Markdown to the terminal)")
    command.add_argument("--outcomes", metavar="FILE", help="keep outcomes here, and do not compute again what it holds")
    command.add_argument("--quiet", action="store_true", help="no progress")
    command.set_defaults(run=run_conform)


def run_conform(options):
    """Fill the matrix, write it, and return 0: what other libraries answer is no failure of this one."""
    from refnode.conformance import matrix, matrix_page
    tolerances = _tolerances(options.tolerances)
    for path in options.matrix:
        if Path(path).suffix not in (".html", ".md", ".json"):
            raise InvalidInputError(f"--matrix {path}: the name must end in .html, .md or .json")
    if not options.limit > 0 or options.jobs < 1:
        raise InvalidInputError("--limit and --jobs must be positive")
    filled = matrix.conform(
        matrix.problems_named(options.problems), options.tools, tolerances, limit=options.limit, jobs=options.jobs,
        choice=options.ways, outcomes=matrix.OutcomeFile(options.outcomes),
        progress=(lambda request, outcome: None) if options.quiet else _progress)
    command = f"refnode {shlex.join(_command(options))}"
    texts = {".html": lambda: matrix_page.page(filled, command), ".json": lambda: matrix.json_text(filled),
             ".md": lambda: matrix.markdown_text(filled, command)}
    for path in options.matrix:
        _write(path, texts[Path(path).suffix]())
        print(path)
    if not options.matrix:
        print(texts[".md"](), end="")
    return 0


def _tolerances(text):
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (0.0,)
    if not all(0.0 < value < 1.0 for value in values):
        raise InvalidInputError(f"--tolerances must be numbers between 0 and 1, separated by commas, found {text!r}")
    return values


def _command(options):
    """The arguments that make this matrix again."""
    parts = ["conform", *options.tools]
    for name, default in (("problems", "*"), ("ways", "*"), ("tolerances", "1e-6,1e-9"), ("limit", 30.0)):
        value = getattr(options, name)
        parts += [] if value == default else [f"--{name}", f"{value:g}" if isinstance(value, float) else value]
    return parts + [part for path in options.matrix for part in ("--matrix", Path(path).name)]


def _progress(request, outcome):
    print(f"{request.problem_id:<36} {request.tool} {request.mode} {request.method} {request.rtol:g}: {outcome.status}"
          f" ({outcome.seconds:.1f} s)", file=sys.stderr, flush=True)


def _write(path, text):
    from refnode.report import write_atomically
    write_atomically(path, text)
