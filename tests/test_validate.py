"""`refnode validate`: what it plans, the verdicts it gives, and the wrong derivatives it must catch."""
import contextlib
import gc
import importlib
import pkgutil

import numpy as np
import pytest

import refnode
from refnode import beforehand, drivers, shared_work, validate
from refnode.drivers import ALL_DRIVERS
from refnode.errors import InvalidInputError
from refnode.evidence import gradient_claims, hessian_claims, mutants, reversible_claims, stepper_claims, through_claims
from refnode.evidence.amplification import Amplification, Units
from refnode.evidence.field_claims import rows_of_field
from refnode.evidence.references import Flow, closed_form_reference, scipy_reference
from refnode.evidence.row import EPS, Comparison, Row, flat, input_names, input_vector, single, split_inputs, verdict_of
from refnode.evidence.hessian_claims import hessian_rows
from refnode.evidence.stepper_claims import order_row
from refnode.evidence.subjects import Subject, closed_forms, fields, methods, problems
from refnode.fields import classical
from refnode.fields.field import VectorField
from refnode.host_device import Driver
from refnode.sensitivity.gradient import PULLS, REVERSIBLE_PULLS
from refnode.sensitivity.recipes import RECIPES
from refnode.steppers.schemes import REVERSIBLE
from refnode.steppers.tableaus import TABLEAUS

SMALL = {"fields_wanted": "cosine_relaxation", "methods_wanted": "dopri5"}


def verdicts(rows):
    return {row.verdict for row in rows}


# --- the plan --------------------------------------------------------------------------------------

def test_everything_registered_is_planned():
    plan = {(task.group, task.name) for task in validate.tasks(validate.select())}
    assert {("fields", name) for name in classical.CLASSICAL} <= plan
    assert {("steppers", name) for name in TABLEAUS} <= plan
    assert {("recipes", name) for name in problems()} <= plan
    assert {("checkers", name) for name in mutants.MISTAKES} <= plan
    assert validate.select().recipes == tuple(RECIPES)


def test_every_recipe_has_a_row_for_every_method_it_takes(monkeypatch):
    """The plan alone: nothing is computed."""
    rooms = [stepper_claims, gradient_claims, reversible_claims, through_claims, hessian_claims]
    for room in rooms:
        monkeypatch.setattr(room, "attempt", lambda group, subject, evidence, truth, make, **labels: Row(
            group, subject, evidence, truth, "PASS", **labels))
    selection = validate.select("van_der_pol")
    rows = [row for task in validate.tasks(selection) if task.group not in ("fields", "checkers") for row in task.gather()]
    found = {(row.recipe, row.method) for row in rows}
    assert set(TABLEAUS) | set(REVERSIBLE) < set(methods())
    for method in methods():
        has_inverse = method not in TABLEAUS
        able = REVERSIBLE_PULLS if has_inverse else PULLS
        for name, recipe in RECIPES.items():
            if (recipe.equation, recipe.reversal) in able:
                assert (name, method) in found, (name, method)
    second = {(row.evidence.split(" ")[0], row.method) for row in rows if row.group == "second"}
    assert second == {(start, method) for start in ("H", "<u,") for method in TABLEAUS}
    assert {row.method for row in hessian_rows("riccati", 0, methods()) if row.truth == "exact"} == set(TABLEAUS)


def test_a_field_registered_later_is_planned(monkeypatch):
    monkeypatch.setitem(classical.CLASSICAL, "newcomer", VectorField(lambda t, y, theta: -y, name="newcomer", n=1, p=0))
    assert "newcomer" in validate.select().fields


def test_names_and_patterns():
    selection = validate.select("lorenz, mlp*", "rk*,dopri5", "discrete*", seed=3)
    assert selection.fields == ("lorenz", *(f"mlp/{name}" for name in (
        "tanh", "tanh_time", "softplus", "softplus_time", "sine", "sine_time")))
    assert selection.problems == ("lorenz", "mlp")
    assert selection.methods == ("rk4", "rk38", "dopri5")
    assert set(selection.recipes) == {"discrete", "discrete_forward"}
    assert selection.seed == 3
    assert validate.select("pendulum").problems == ("pendulum", "pendulum/backwards")


@pytest.mark.parametrize("arguments, message", [
    ({"fields_wanted": "lorentz"}, "fields: 'lorentz' is none of linear, .*lorenz"),
    ({"methods_wanted": "dopri5,rk5"}, "methods: 'rk5' is none of euler, .*dopri5"),
    ({"recipes_wanted": "adjoint"}, "recipes: 'adjoint' is none of forward, .*backsolve"),
    ({"fields_wanted": ""}, "fields: '' is none of"),
])
def test_unknown_names_are_refused_with_the_known_ones(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        validate.select(**arguments)


def test_quick_is_a_part():
    full, quick = validate.select(), validate.select(quick=True)
    assert set(quick.problems) < set(full.problems) and set(quick.methods) < set(full.methods)
    assert quick.fields == full.fields and quick.recipes == full.recipes


# --- runs ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def outcome():
    return validate.run(validate.select(**SMALL))


def test_right_derivatives_pass(outcome):
    assert [row for row in outcome.rows if row.verdict != "PASS"] == []
    assert outcome.exit_code == 0
    assert {row.group for row in outcome.rows} == {"fields", "steppers", "recipes", "second", "losses", "duality", "checkers"}
    assert {row.recipe for row in outcome.rows} >= set(RECIPES)
    assert all(row.reason and row.worst for row in outcome.rows)
    assert f"{len(outcome.rows)} rows: {len(outcome.rows)} PASS, 0 INCONCLUSIVE, 0 FAIL, 0 ERROR in" in outcome.totals()


def test_the_facts_say_what_is_needed_to_repeat_it(outcome):
    assert {"refnode", "python", "numpy", "numba", "scipy", "platform", "cpu", "seed", "tableaus"} <= set(outcome.facts)


def test_the_same_seed_gives_the_same_numbers(outcome):
    again = validate.run(validate.select(**SMALL))
    assert again.rows == outcome.rows
    other = validate.run(validate.select(**SMALL, seed=1))
    assert other.rows != outcome.rows and verdicts(other.rows) == {"PASS"}


def test_rows_gathered_by_two_processes_are_those_of_one(outcome):
    """With the numbers told here, and in the same order; SMALL has rows of every group, and NaN among their numbers."""
    looks = []
    beside = validate.run(validate.select(**SMALL), lambda done, total, what, rows: looks.append(what), workers=1)
    assert list(map(repr, beside.rows)) == list(map(repr, outcome.rows))
    assert looks[-1] == "done" and len(looks) <= len(validate.tasks(validate.select(**SMALL))) + 2


@pytest.mark.parametrize("command", ["import os; os.read(0, 8); os._exit(1)", "raise SystemExit(1)"])
def test_what_a_process_takes_and_does_not_do_is_done_here(monkeypatch, outcome, command):
    monkeypatch.setattr(shared_work, "SERVE", command)
    beside = validate.run(validate.select(**SMALL), workers=1)
    assert list(map(repr, beside.rows)) == list(map(repr, outcome.rows))


def test_other_processes_do_work_and_are_gone_afterwards():
    """All three numbers are left to them."""
    selection = validate.select("cosine_relaxation", "rk4", "discrete")
    plan = validate.tasks(selection)
    with shared_work.shared("refnode.validate:gatherers", selection, [2, 0, 1], 2) as (take, results):
        done = results(waiting=True)
        assert take() is None and results() == {}
    assert list(done.keys() ^ {0, 1, 2}) == []
    assert all(repr(done[number]) == repr(plan[number].rows()) for number in done)


def wrong_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """That of dy = -k (y - cos t) without the last term."""
    t_bar[0] -= theta[0] * np.sin(t) * dy_bar[0]
    y_bar[0] -= theta[0] * dy_bar[0]
    theta_bar[0] -= y[0] * dy_bar[0]


def put(monkeypatch, name, field):
    """``field`` in place of a classical one, in the registry and in the catalogue."""
    monkeypatch.setitem(classical.CLASSICAL, name, field)
    monkeypatch.setattr(classical, name, field)


def test_a_wrong_vjp_of_a_registered_field_fails(monkeypatch):
    right = classical.cosine_relaxation
    put(monkeypatch, "cosine_relaxation", VectorField(
        right.f.py_func, jvp=right.jvp.py_func, vjp=wrong_vjp, name="cosine_relaxation", n=1, p=1))
    outcome = validate.run(validate.select(**SMALL))
    failed = {(row.group, row.recipe) for row in outcome.rows if row.verdict == "FAIL"}
    assert {("fields", ""), ("recipes", "discrete"), ("recipes", "backsolve"), ("recipes", "interpolating"),
            ("losses", ""), ("duality", "discrete")} <= failed
    assert ("recipes", "forward") not in failed                   # which uses the jvp, and that is right
    assert outcome.exit_code == 1


def test_a_wrong_hvp_of_a_registered_field_fails(monkeypatch):
    """One that takes the vjp for linear in dy_bar and constant in the rest; its Hessian is symmetric all the same."""
    right = classical.cosine_relaxation

    def hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
        right.vjp.py_func(t, y, theta, tape, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan)
    put(monkeypatch, "cosine_relaxation", VectorField(
        right.f.py_func, right.jvp.py_func, right.vjp.py_func, hvp, name="cosine_relaxation", n=1, p=1))
    of_problem, of_field = hessian_rows("cosine_relaxation", 0), rows_of_field("", fields()["cosine_relaxation"], 0)
    assert [row.evidence for row in of_problem if row.verdict == "FAIL"][:1] == ["H v = finite differences of gradient, dopri5"]
    assert "hvp = finite differences of vjp" in [row.evidence for row in of_field if row.verdict == "FAIL"]


def test_a_wrong_right_hand_side_with_right_derivatives_fails(monkeypatch):
    """f(t, y) with the wrong phase: every derivative is that of the wrong function. Only the closed form knows."""
    put(monkeypatch, "cosine_relaxation", VectorField(
        lambda t, y, theta: -theta[:1] * (y - np.sin(t)),
        jvp=lambda t, y, theta, t_tan, y_tan, theta_tan: (
            -theta_tan[:1] * (y - np.sin(t)) - theta[:1] * (y_tan - np.cos(t) * t_tan)),
        vjp=lambda t, y, theta, dy_bar: (theta[0] * np.cos(t) * dy_bar[0], -theta[0] * dy_bar,
                                         -(y - np.sin(t)) * dy_bar),
        name="cosine_relaxation", n=1, p=1))
    outcome = validate.run(validate.select(**SMALL))
    assert verdicts(row for row in outcome.rows if row.group == "fields") == {"PASS"}
    failed = [row.evidence for row in outcome.rows if row.verdict == "FAIL"]
    assert "closed form = SciPy on the variational system" in failed and "discrete = exact gradient, dopri5" in failed


def test_a_field_that_raises_is_an_error_and_no_crash(monkeypatch):
    def broken(t, y, theta):
        raise ZeroDivisionError("on purpose")
    put(monkeypatch, "cosine_relaxation", VectorField(broken, name="cosine_relaxation", n=1, p=1))
    outcome = validate.run(validate.select(**SMALL))
    errors = [row for row in outcome.rows if row.verdict == "ERROR"]
    assert errors and any("ZeroDivisionError: on purpose" in row.note for row in errors)
    assert outcome.exit_code == 1


def test_a_field_without_derivatives_is_an_error():
    rows = rows_of_field("bare", Subject(VectorField(lambda t, y, theta: -y, name="bare", n=1, p=0), 1, 0), 0)
    assert verdicts(rows) == {"PASS", "ERROR"}


@pytest.mark.slow
def test_everything_passes_with_other_seeds():
    for seed in (1, 2):
        outcome = validate.run(validate.select(seed=seed))
        assert [row for row in outcome.rows if row.verdict != "PASS"] == []


# --- the mistakes ----------------------------------------------------------------------------------

@pytest.mark.parametrize("label", mutants.MISTAKES)
def test_every_mistake_is_caught(label):
    (row,) = mutants.checker_rows(label, 0)
    assert row.verdict == "PASS" and row.error < row.bound


def test_a_mistake_that_nothing_notices_fails(monkeypatch):
    monkeypatch.setitem(mutants.MISTAKES, "none", lambda seed: rows_of_field("riccati", fields()["riccati"], seed))
    (row,) = mutants.checker_rows("none", 0)
    assert row.verdict == "FAIL" and row.evidence == "nothing noticed" and row.error > row.bound


# --- verdicts --------------------------------------------------------------------------------------

@pytest.mark.parametrize("yours, reference, uncertainty, bound, verdict", [
    (1.0, 1.0, 0.0, 0.0, "PASS"),
    (1.0, 1.1, 0.0, 0.2, "PASS"),
    (1.0, 1.5, 0.01, 0.2, "FAIL"),
    (1.0, 1.5, 0.1, 0.2, "INCONCLUSIVE"),
    (1.0, 1.0, 0.3, 0.2, "INCONCLUSIVE"),
    (np.nan, 1.0, 0.0, 0.2, "FAIL"),
    (np.inf, 1.0, 0.0, 0.2, "FAIL"),
    (1.0, np.nan, 0.0, 0.2, "INCONCLUSIVE"),
    (1.0, 2.0, 0.0, np.inf, "INCONCLUSIVE"),
    (1.0, 1.0, 0.0, np.nan, "INCONCLUSIVE"),
])
def test_verdict_of_a_number(yours, reference, uncertainty, bound, verdict):
    assert verdict_of(yours, reference, uncertainty, bound) == verdict


HEAD = ("recipes", "subject", "evidence", "exact", "reason")


def test_the_worst_component_is_the_gravest_not_the_largest():
    comparison = Comparison(["fine", "wrong", "large"], np.array([1.0, 2.0, 100.9]), np.array([1.0, 2.5, 100.0]),
                            np.array([0.1, 0.1, 1.0]), scale=100.0)
    row = comparison.row(*HEAD)
    assert (row.verdict, row.worst) == ("FAIL", "wrong")
    assert row.error == pytest.approx(0.005) and row.bound == pytest.approx(0.001)


def test_a_bound_as_wide_as_the_number_proves_nothing():
    row = single(1.0, 1.01, 0.5, "x", scale=1.0).row(*HEAD)
    assert row.verdict == "INCONCLUSIVE" and "too weak" in row.note
    assert single(1.0, 1.01, 0.5, "rate").row(*HEAD).verdict == "PASS"        # without a scale it is a bound like any other


def test_inconclusive_rows_do_not_fail_a_run(outcome):
    row = single(1.0, 1.01, 0.5, "x", scale=1.0).row(*HEAD)
    assert validate.Outcome([*outcome.rows, row], outcome.selection, 1.0, {}).exit_code == 0


def test_an_order_that_is_too_low_fails_and_a_higher_one_does_not():
    head = {"group": "steppers", "subject": "s", "evidence": "e", "truth": "exact"}
    second = lambda n: 1.0 / n**2
    assert order_row(second, 2, "y", **head).verdict == "PASS"
    assert order_row(second, 1, "y", **head).verdict == "PASS"
    assert order_row(second, 3, "y", **head).verdict == "FAIL"


def test_another_branch_of_the_program_judges_nothing(monkeypatch):
    """A program that takes other steps has another derivative: neither right nor wrong."""
    case = gradient_claims.Case("van_der_pol", 0)
    (right,) = through_claims.through_rows(case, ["through"], ["dopri5"])
    program_of = through_claims.program_of
    monkeypatch.setattr(through_claims, "program_of", lambda *arguments: (
        through_claims.AdaptiveProgram(case.problem, rtol=1e-5), program_of(*arguments)[1]))
    (other,) = through_claims.through_rows(case, ["through"], ["dopri5"])
    assert (right.verdict, other.verdict) == ("PASS", "INCONCLUSIVE") and "different branches" in other.note


def test_an_absolute_tolerance_that_knows_the_scale_of_the_loss_fails(monkeypatch):
    """As if the adjoint's absolute tolerance counted in units of its own: 2^-30 L is then lost in it."""
    from refnode.sensitivity import continuous_adjoint
    case = gradient_claims.Case("forced_oscillator", 0)
    (right,) = gradient_claims.scaling_rows(case, ["interpolating"], ["dopri5"])
    monkeypatch.setattr(continuous_adjoint, "adjoint_unit", lambda *arguments: 1.0)
    (wrong,) = gradient_claims.scaling_rows(case, ["interpolating"], ["dopri5"])
    assert (right.verdict, wrong.verdict) == ("PASS", "FAIL")


# --- references and bounds -------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["logistic", "forced_oscillator", "riccati"])
def test_the_references_agree(name):
    problem = problems()[name]()
    exact, other = closed_form_reference(problem, closed_forms()[name]), scipy_reference(Flow(problem))
    bound = exact.uncertainty + other.uncertainty
    assert np.all(np.abs(exact.gradient - other.gradient) <= bound)
    assert np.max(bound) <= 1e-9 * np.max(np.abs(exact.gradient))


def test_inputs_as_a_vector_and_back():
    problem = problems()["forced_oscillator"]()
    x, found = input_vector(problem), refnode.gradient(problem)
    parts = split_inputs(problem, x)
    assert np.array_equal(parts["theta"], problem.theta) and np.array_equal(parts["ts"], problem.ts)
    assert x.size == flat(found).size == len(input_names(problem))


def test_amplification_of_kicks_that_neither_grow_nor_decay():
    """y' = 0: every kick of eps (1 + |y|) arrives as it is, and K of them with random signs add like sqrt(K)."""
    field = VectorField(lambda t, y, theta: 0.0 * y * theta[0], name="constant", n=1, p=1)
    problem = refnode.Problem(field, [3.0], [1.0], (0.0, 1.0), loss=refnode.losses.linear([[1.0]]))
    amplification = Amplification(Flow(problem), Units(), 0)
    assert amplification.state[0, 0] == pytest.approx(4.0 * np.sqrt(16), rel=0.8)
    one, two = (amplification.bound("state", rtol, steps) for rtol, steps in ((1e-9, 10), (1e-8, 20)))
    assert two[0, 0] == pytest.approx(20.0 * one[0, 0])


def test_kicks_measure_the_error_that_a_solver_commits():
    """The gradient's error at a tolerance is within the bound, and the bound within a factor 10^4 of it."""
    problem = problems()["lotka_volterra"]()
    exact = scipy_reference(Flow(problem)).gradient
    found = refnode.gradient(problem, "forward", rtol=1e-7, atol=1e-7)
    error = np.abs(flat(found) - exact)
    bound = Amplification(Flow(problem), Units(), 0).bound("forward", 1e-7, found.stats["n_steps"])
    bound += 1e3 * EPS * np.max(np.abs(exact))
    assert np.all(error <= bound) and np.max(error) >= 1e-5 * np.max(bound)


# --- compiling -------------------------------------------------------------------------------------

def test_every_driver_is_compiled_beforehand():
    modules = [importlib.import_module(info.name) for info in pkgutil.walk_packages(refnode.__path__, "refnode.")
               if info.name.split(".")[1] in ("solve", "sensitivity", "steppers")]
    found = {f"{value.py_func.__module__}:{value.py_func.__name__}" for module in modules
             for value in vars(module).values() if isinstance(value, Driver)}
    assert found == set(ALL_DRIVERS) and len(found) == len(ALL_DRIVERS)


def test_processes_take_the_groups_one_by_one(tmp_path, monkeypatch):
    """Every name once, whichever process takes its group; a group by one process."""
    (tmp_path / "probe.py").write_text("import os, pathlib, uuid\n" + "".join(
        f"def f{i}(): (pathlib.Path(__file__).parent / ('{i} ' + str(os.getpid()) + ' ' + uuid.uuid4().hex)).touch()\n"
        for i in range(6)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with beforehand.compiling([("probe:f0", "probe:f1", "probe:f2"), ("probe:f3",), ("probe:f4", "probe:f5")], workers=2) as (children, _):
        assert [child.wait() for child in children] == [0, 0]
    taken = sorted(path.name.split() for path in tmp_path.glob("* *"))
    assert [name for name, *_ in taken] == list("012345")
    process = {name: pid for name, pid, _ in taken}
    assert process["0"] == process["1"] == process["2"] and process["4"] == process["5"]


def test_who_waits_takes_a_group_too(tmp_path, monkeypatch):
    monkeypatch.setattr(beforehand, "COMPILE", "")               # a process that does nothing
    prepared = []
    monkeypatch.setattr(beforehand, "prepare", prepared.append)
    with beforehand.compiling([("probe:f", "probe:g"), ("probe:h",)]) as (_, source):
        assert beforehand.prepare_next(source) and prepared == ["probe:f", "probe:g"]
        assert beforehand.prepare_next(source) and prepared == ["probe:f", "probe:g", "probe:h"]
        assert not beforehand.prepare_next(source)


@pytest.mark.parametrize("collecting", [True, False])
def test_cycles_are_collected_again_behind_compiling(collecting):
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(KeyboardInterrupt), beforehand.cycles_kept():
            assert not gc.isenabled()
            raise KeyboardInterrupt
        assert gc.isenabled() == collecting
    finally:
        gc.enable()


def test_a_group_fits_its_record():
    assert all(len(" ".join(group)) <= beforehand.RECORD for group in
               drivers.GROUPS + drivers.SECOND_ORDER_GROUPS + drivers.BATCH_GROUPS)


@pytest.mark.parametrize("group", ["fields", "steppers", "recipes"])
def test_evidence_runs_no_driver_but_those_it_names(group, monkeypatch):
    """It is gathered while the others are compiled."""
    needed = set()

    def named(self):
        assert f"{self.py_func.__module__}:{self.py_func.__name__}" in needed

    prepare, call = Driver.prepare, Driver.__call__
    monkeypatch.setattr(Driver, "prepare", lambda self: (named(self), prepare(self))[1])
    monkeypatch.setattr(Driver, "__call__", lambda self, *arguments: (named(self), call(self, *arguments))[1])
    plan = [task for task in validate.tasks(validate.select()) if task.group == group]
    assert all(set(task.needs) < set(drivers.ALL_DRIVERS) for task in plan)
    chosen = {task.name: task for task in plan[::6] + [task for task in plan if not task.needs][-1:]}
    for task in chosen.values():
        needed.clear()
        needed.update(task.needs)
        assert all(row.verdict == "PASS" for row in task.rows())


def test_what_is_ready_is_gathered_first_and_told_in_the_order_of_the_plan(monkeypatch):
    """Two of three tasks wait for a driver that comes after the first two looks."""
    looks = []

    @contextlib.contextmanager
    def compiled_beside(groups):
        yield lambda names: set(names) if len(looks) < 3 else set(), lambda: None

    def task(name, needs):
        return validate.Task("fields", name, lambda: [Row("fields", name, "any", "exact", "PASS")], needs)

    monkeypatch.setattr(validate.drivers, "compiled_beside", compiled_beside)
    monkeypatch.setattr(validate, "tasks", lambda selection: [task("a", ("late",)), task("b", ()), task("c", ("late",))])
    outcome = validate.run(validate.select(), lambda done, total, what, rows: looks.append(what))
    assert looks[0] == "fields: b" and looks[1].startswith("compiling") and looks[-3:] == ["fields: a", "fields: c", "done"]
    assert [row.subject for row in outcome.rows] == ["a", "b", "c"]


def test_a_cache_that_takes_no_files_is_not_filled(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(beforehand, "cache_home", lambda: tmp_path / "file" / "folder")
    monkeypatch.setattr(drivers, "missing_drivers", list)
    monkeypatch.setattr(beforehand.subprocess, "Popen", lambda *arguments, **options: pytest.fail("started a process"))
    drivers.compile_all()
