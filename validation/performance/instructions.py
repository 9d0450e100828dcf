"""Instructions of one warm gradient of workload W1, counted by callgrind: `make guard`, where valgrind is installed.

Only what runs between the switches is counted; the rest of the process takes a minute or two under valgrind. The counts are
those of one machine and one compiler: compare them with those of the code before a change, on the same machine.

    python validation/performance/instructions.py [--calls 10]
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

SWITCH = "callgrind_control"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--name", choices=("gradient", "GradientFunction"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.name:
        counted(options.name, options.calls)
        return
    for name in ("gradient", "GradientFunction"):
        with tempfile.TemporaryDirectory() as folder:
            command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out", sys.executable,
                       __file__, "--name", name, "--calls", str(options.calls)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            found = sum(int(count) for file in pathlib.Path(folder).glob("out*")
                        for count in re.findall(r"^(?:summary|totals): (\d+)", file.read_text(), re.MULTILINE)[:1])
        print(f"{name:20} {found // options.calls} instructions a call")


def counted(name, calls):
    """Calls a warm gradient with the counter on."""
    import refnode
    problem = refnode.Problem(refnode.fields.lotka_volterra, [1.0, 1.0], [1.5, 1.0, 3.0, 1.0], (0.0, 10.0),
                              np.linspace(0.0, 10.0, 21), refnode.losses.sum_of_squares())
    given = {"rtol": 1e-8, "atol": 1e-8, "check_tangent": False}
    run = refnode.GradientFunction(problem, **given) if name == "GradientFunction" else lambda: refnode.gradient(problem, **given)
    for _ in range(3):
        run()
    problem.field.pace.update(dict.fromkeys(problem.field.pace, 1_000_000))
    run()
    switch("on")
    for _ in range(calls):
        run()
    switch("off")


def switch(way):
    subprocess.run([SWITCH, "-i", way, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
