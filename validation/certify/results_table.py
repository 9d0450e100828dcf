"""Writes the table of all certified problems, validation/results/certified.md, from their files.

    python validation/certify/results_table.py
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from refnode.interchange.canonical_json import problem_sha256                       # noqa: E402
from refnode.problems.certified import certified, certified_ids, path_of            # noqa: E402

HEAD = """# Proven reference values

Made by `validation/certify/certify.py --all`, compared by `validation/certify/second_route.py --all`; this table by
`validation/certify/results_table.py`. The radius is the largest of all quantities, each entry by its own size; a ball around zero by
the largest entry of its quantity. Seconds are processor time of the attempt that reached the goal and those before it. The second
route (80-bit floats, no Taylor series, adjoint or derivative rule) differs by what is given, relative to the largest entry of a
quantity; beside it, in brackets, its own error estimate. Its Hessian-vector products are extrapolated differences, which show few digits
where a gradient bends at once (Lorenz at T = 20: four).

"""
REMADE = ROOT / "validation" / "results" / "remade.json"


def largest(numbers):
    return max(map(float, numbers))


def figures(route, names):
    """difference (own error) of some quantities; the pair with the largest difference."""
    names = [name for name in names if name in route.get("difference", {})]
    if not names:
        return "-"
    worst = max(names, key=lambda name: route["difference"][name])
    return f"{route['difference'][worst]:.0e} ({route['own_error'][worst]:.0e})"


def remade_text(ids):
    """What `certify.py --compare` noted of the values that the files hold now."""
    noted = json.loads(REMADE.read_text(encoding="utf-8"))
    missing = [id for id in ids if noted.get(id) != problem_sha256(
        {"values": json.loads(path_of(id).read_text(encoding="utf-8"))["values"]})]
    rest = f"not yet: {', '.join(missing)}" if missing else "none is left"
    return f"Made a second time from scratch (`certify.py --compare`), with balls that overlap: {len(ids) - len(missing)} of {len(ids)}; {rest}.\n\n"


def row(id):
    made = certified(id).provenance
    route = made.get("second_route", {})
    return (f"| {id} | {largest(made['relative_radius'].values()):.0e} | {made['order']} | {made['bits']} | {made['steps']} | "
            f"{made['seconds']:.0f} | {made.get('closed_form', '-')} | {figures(route, ('y', 'loss', 'grad', 'event_time'))} | "
            f"{figures(route, ('hvp',))} |")


def main():
    rows = [row(id) for id in certified_ids()]
    titles = ("problem", "radius", "order", "bits", "steps", "s", "closed form", "second route: values and gradients", "hvp")
    text = HEAD + remade_text(certified_ids()) + "\n".join(["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles), *rows]) + "\n"
    (ROOT / "validation" / "results" / "certified.md").write_text(text, encoding="utf-8")
    print(f"{len(rows)} problems")


if __name__ == "__main__":
    main()
