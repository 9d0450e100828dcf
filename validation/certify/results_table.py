"""Writes the table of all certified problems, validation/results/certified.md, from their files.

    python validation/certify/results_table.py
"""
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from refnode.problems.certified import certified, certified_ids                     # noqa: E402

HEAD = """# Proven reference values

Made by `validation/certify/certify.py --all`, compared by `validation/certify/second_route.py --all`; this table by
`validation/certify/results_table.py`. The radius is the largest of all quantities, each entry by its own size; a ball around zero by
the largest entry of its quantity. Seconds are processor time of the attempt that reached the goal and those before it. The second
route (80-bit floats, no Taylor series, adjoint or derivative rule) differs by what is given, relative to the largest entry of a
quantity; beside it, in brackets, its own error estimate. Its Hessian-vector products are extrapolated differences, which show few digits
where a gradient bends at once (Lorenz at T = 20: four).

Made a second time from scratch (`certify.py --compare`), with balls that overlap: all but cosine_relaxation/k1000, kepler/t64 and periods20,
lorenz/t5, t10 and t20, lotka_volterra/loss_2p30, loss_2m30 and rescaled_2p20, mlp/2_32_32_2 and 8_32_8, van_der_pol/mu10, mu100 and
dilution16, fitzhugh_nagumo/spikes.

"""


def largest(numbers):
    return max(map(float, numbers))


def figures(route, names):
    """difference (own error) of some quantities; the pair with the largest difference."""
    names = [name for name in names if name in route.get("difference", {})]
    if not names:
        return "-"
    worst = max(names, key=lambda name: route["difference"][name])
    return f"{route['difference'][worst]:.0e} ({route['own_error'][worst]:.0e})"


def row(id):
    made = certified(id).provenance
    route = made.get("second_route", {})
    return (f"| {id} | {largest(made['relative_radius'].values()):.0e} | {made['order']} | {made['bits']} | {made['steps']} | "
            f"{made['seconds']:.0f} | {made.get('closed_form', '-')} | {figures(route, ('y', 'loss', 'grad', 'event_time'))} | "
            f"{figures(route, ('hvp',))} |")


def main():
    rows = [row(id) for id in certified_ids()]
    titles = ("problem", "radius", "order", "bits", "steps", "s", "closed form", "second route: values and gradients", "hvp")
    text = HEAD + "\n".join(["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles), *rows]) + "\n"
    (ROOT / "validation" / "results" / "certified.md").write_text(text, encoding="utf-8")
    print(f"{len(rows)} problems")


if __name__ == "__main__":
    main()
