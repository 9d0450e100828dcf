"""What the sweeps share: their options, and a table that is printed and, on request, filed among the results."""
import argparse
import pathlib
import platform
import sys
import time

import numba
import numpy as np
import scipy

import refnode

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))             # the generators and error measures of the tests: one home for each
STARTED = time.perf_counter()


def parser(description, **size):
    """Options --seed and --output, and one number for each of ``size``: name=(default, help)."""
    options = argparse.ArgumentParser(description=description.strip(), formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, text) in size.items():
        options.add_argument(f"--{name}", type=positive, default=default, help=f"{text} (default: {default})")
    options.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    options.add_argument("--output", type=pathlib.Path, metavar="DIR", help="write NAME.md there, too")
    return options


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def turns(solves, timed, rounds):
    """name -> processor times over that of a solve in the same round, of which each takes its turn; and the solves' times.

    ``solves`` is name -> function, ``timed`` name -> (a name of ``solves``, function).
    """
    for function in (*solves.values(), *(function for _, function in timed.values())):
        function()                                      # compiled, and all memory touched
    ratios, seconds = {name: [] for name in timed}, []
    for _ in range(rounds):
        for name, (beside, function) in timed.items():
            seconds.append(spent(solves[beside]))
            ratios[name].append(spent(function) / seconds[-1])
    return {name: np.array(found) for name, found in ratios.items()}, seconds


def spent(function):
    """Processor time of a call, of all threads."""
    started = time.process_time()
    function()
    return time.process_time() - started


def publish(description, options, head, rows, *notes):
    """Print a Markdown table under the script's claim, and write it to ``--output``."""
    name = pathlib.Path(sys.argv[0]).stem
    lines = [f"# {name}", "", description.strip(), "", f"Made by `{command(name, options)}`, with {versions()}.", "",
             row_of(head), row_of("---" for _ in head), *map(row_of, rows)]
    for note in notes:
        lines += ["", note]
    text = "\n".join(lines) + "\n"
    print(text)
    print(f"{time.perf_counter() - STARTED:.0f} s")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"{name}.md").write_text(text, encoding="utf-8")


def command(name, options):
    settings = [f"--{key} {value}" for key, value in vars(options).items() if key != "output"]
    return " ".join(["python", f"validation/sweeps/{name}.py", *settings])


def versions():
    return (f"refnode {refnode.__version__}, NumPy {np.__version__}, SciPy {scipy.__version__}, "
            f"Numba {numba.__version__}, Python {platform.python_version()} on {platform.machine()}")


def row_of(cells):
    return "| " + " | ".join(f"{cell:.2g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"
