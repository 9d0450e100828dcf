"""The pytest plugin: fixture, marker, report folder; and that it costs those nothing who do not use it."""
import json
import os
import pathlib
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from refnode.pytest_plugin import problem_ids

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))                      # where it is not installed, pytest_refnode stands beside the package
pytest_plugins = "pytester"

MODULE = '''
import numpy as np
import pytest

def fun(x):
    return np.sin(x[0]) * x[1] ** 2

def grad(x):
    return np.array([np.cos(x[0]) * x[1] ** 2, 2 * np.sin(x[0]) * x[1]])

X = [0.5, 1.5]
'''
RIGHT = MODULE + '''
def test_right(refnode_check):
    report = refnode_check(fun, X, grad)
    assert report.verdict == "PASS" and refnode_check.reports == [report]
'''
ALL = RIGHT + '''
def test_wrong(refnode_check):
    refnode_check(fun, X, grad, names=["a", "b<&"])
    refnode_check.gradient(fun, X, lambda x: grad(x) * [1, -1], names=["a", "b<&"])

def kinked(x):
    return abs(x[0] - 0.5) + x[1] ** 2

def test_undecided(refnode_check):
    refnode_check(kinked, X, [0.0, 3.0])

@pytest.mark.refnode(inconclusive="skip")
def test_skipped(refnode_check):
    refnode_check(kinked, X, [0.0, 3.0])

@pytest.mark.refnode(inconclusive="pass", rtol=1e-9)
def test_passed(refnode_check):
    assert refnode_check(kinked, X, [0.0, 3.0], atol=1e-3).settings["rtol"] == 1e-9

def test_nothing_checked(refnode_check):
    assert refnode_check.reports == []
'''
STUBS = '''
import sys
import types

from refnode import check_gradient

problems, checks = types.ModuleType("reference_set"), types.ModuleType("check_ode")
problems.REFERENCE_PROBLEMS = dict.fromkeys(["nonstiff/a", "nonstiff/b", "stiff/a"])

def check_ode(problem, answer, *, rtol=None):
    return check_gradient(lambda x: x[0] ** 2, [1.5], [answer(problem)], rtol=rtol)

checks.check_ode = check_ode
sys.modules["refnode.problems.reference_set"] = problems
sys.modules.setdefault("refnode.conformance", types.ModuleType("conformance"))
sys.modules["refnode.conformance.check_ode"] = checks
'''
MARKED = '''
import pytest

@pytest.mark.refnode(problems="nonstiff/*", rtol=1e-7)
def test_marked(refnode_check):
    assert refnode_check(lambda problem: 3.0 if problem == refnode_check.problem else 0.0).settings["rtol"] == 1e-7

@pytest.mark.refnode(problems=["stiff/a", "*/a"])
def test_several(refnode_check):
    with pytest.raises(AssertionError, match="FAIL"):
        refnode_check(lambda problem: 4.0, rtol=1e-3)
'''


def run(pytester, *arguments):
    """In this process; the plugin is named, and not taken from an installation."""
    return pytester.runpytest_inprocess("-p", "pytest_refnode", "-p", "no:cacheprovider", *arguments)


# --- the fixture ----------------------------------------------------------------------------------

def test_verdicts_of_tests(pytester):
    pytester.makepyfile(ALL)
    result = run(pytester)
    result.assert_outcomes(passed=3, failed=2, skipped=1)
    result.stdout.fnmatch_lines(["*GradientMismatch: check_gradient*FAIL", "*only the component b<& is wrong*"])


def test_a_failure_points_at_the_users_line(pytester):
    """The traceback ends in the test: the plugin's own frames are hidden."""
    pytester.makepyfile(ALL)
    lines = run(pytester, "-k", "test_wrong", "--tb=short").stdout.lines
    assert [line for line in lines if "pytest_plugin.py" in line] == []
    assert any("test_wrong" in line for line in lines)


def test_reports_are_properties_of_the_test(pytester):
    pytester.makepyfile(ALL)
    run(pytester, "--junit-xml=out.xml", "-k", "right or wrong or undecided")
    cases = {case.get("name"): case for case in ElementTree.parse(pytester.path / "out.xml").iter("testcase")}
    properties = {name: [p.get("value") for p in case.iter("property") if p.get("name") == "refnode"]
                  for name, case in cases.items()}
    assert properties["test_right"][0].startswith("PASS; worst x[")
    assert [value.split(";")[0] for value in properties["test_wrong"]] == ["PASS", "FAIL"]
    assert "worst b<&: yours -1.4" in properties["test_wrong"][1]
    assert "not smooth" in properties["test_undecided"][0]


def test_a_single_argument_needs_a_problem(pytester):
    pytester.makepyfile("def test_it(refnode_check):\n    refnode_check(print)\n")
    run(pytester).stdout.fnmatch_lines(["*InvalidInputError: refnode_check: expected fun, x and grad, or the marker*"])


def test_what_inconclusive_does_is_one_of_three(pytester):
    pytester.makepyfile(RIGHT.replace("grad)\n", "grad, inconclusive='maybe')\n", 1))
    run(pytester).stdout.fnmatch_lines(["*InvalidInputError: inconclusive: expected one of ('fail', 'skip', 'pass'), found*"])


# --- the marker -----------------------------------------------------------------------------------

@pytest.fixture
def stub_modules(monkeypatch):
    """Whatever the stubs replace comes back."""
    for name in ("refnode.problems.reference_set", "refnode.conformance", "refnode.conformance.check_ode"):
        if name in sys.modules:
            monkeypatch.setitem(sys.modules, name, sys.modules[name])
        else:
            monkeypatch.setitem(sys.modules, name, None)
            monkeypatch.delitem(sys.modules, name)


def test_once_for_each_problem(pytester, stub_modules):
    pytester.makeconftest(STUBS)
    pytester.makepyfile(MARKED)
    result = run(pytester, "-v", "--strict-markers")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*test_marked[[]nonstiff/a[]] PASSED*", "*test_marked[[]nonstiff/b[]] PASSED*",
                                 "*test_several[[]nonstiff/a[]] PASSED*", "*test_several[[]stiff/a[]] PASSED*"])


def test_a_pattern_that_matches_nothing_is_an_error(pytester, stub_modules):
    pytester.makeconftest(STUBS)
    pytester.makepyfile(MARKED.replace("nonstiff/*", "kepler"))
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no reference problem matches; there are nonstiff/a, nonstiff/b, stiff/a*"])


# --- the folder of reports ------------------------------------------------------------------------

def test_folder_of_reports(pytester):
    pytester.makepyfile(ALL)
    result = run(pytester, "--refnode-report=deep/er")
    result.stdout.fnmatch_lines(["refnode: 6 reports: 1 FAIL, 3 INCONCLUSIVE, 2 PASS, in *index.html"])
    folder = pytester.path / "deep" / "er"
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.json", "report.md", "report.txt", "junit.xml"}
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    names = [report["name"].split("::")[1] for report in content["reports"]]
    assert names == ["test_right", "test_wrong", "test_wrong #2", "test_undecided", "test_skipped", "test_passed"]
    assert content["verdict"] == "FAIL" and "b&lt;&amp;" in (folder / "index.html").read_text(encoding="utf-8")
    assert ElementTree.parse(folder / "junit.xml").getroot().get("failures") == "1"


def test_reports_travel_as_json_between_processes(pytester):
    """What pytest-xdist sends from a worker: the serialised report of a test."""
    pytester.makepyfile(ALL)
    pytester.makeconftest('''
import json, pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    sent = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
    return item.config.hook.pytest_report_from_serializable(config=item.config, data=json.loads(json.dumps(sent)))
''')
    run(pytester, "--refnode-report=out").assert_outcomes(passed=3, failed=2, skipped=1)
    assert len(json.loads((pytester.path / "out" / "report.json").read_text(encoding="utf-8"))["reports"]) == 6


def test_an_interrupted_run_writes_what_it_has(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(RIGHT + "\ndef test_stop():\n    raise KeyboardInterrupt\n")
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "pytest_refnode", "-p", "no:cacheprovider",
                          "--refnode-report=out", timeout=120)
    assert result.ret == 2
    assert json.loads((pytester.path / "out" / "report.json").read_text(encoding="utf-8"))["counts"] == {"PASS": 1}


def test_a_folder_that_cannot_be_made_is_told_before_any_work(pytester):
    pytester.makepyfile(RIGHT)
    (pytester.path / "file").write_text("")
    result = run(pytester, "--refnode-report=file/out")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --refnode-report file/out: Not a directory"])


# --- costs and installation -----------------------------------------------------------------------

SCRIPT = """
import sys, pytest
status = pytest.main(["-q", "-p", "pytest_refnode", "-p", "no:cacheprovider", "plain.py"])
print(status, sorted(name for name in ("refnode", "numpy", "numba") if name in sys.modules))
"""


def test_those_who_do_not_use_it_import_nothing(tmp_path):
    (tmp_path / "plain.py").write_text("def test_plain():\n    pass\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True,
                            timeout=120)
    assert result.stdout.splitlines()[-1] == "0 []", result.stdout + result.stderr


def test_the_entry_point_names_the_module(pytester):
    """Of one name with the module: named on the command line as well, it is loaded once."""
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert "pytest11 =\n    pytest_refnode = pytest_refnode\n" in text and "py_modules = pytest_refnode\n" in text
    run(pytester, "--markers").stdout.fnmatch_lines(["@pytest.mark.refnode(problems=*"])
    run(pytester, "--help").stdout.fnmatch_lines(["*--refnode-report=DIR*"])


def test_problem_ids_in_their_own_order(stub_modules):
    exec(STUBS, {})
    assert problem_ids("*") == ["nonstiff/a", "nonstiff/b", "stiff/a"]
    assert problem_ids(("stiff/*", "*/b")) == ["nonstiff/b", "stiff/a"]
    with pytest.raises(pytest.UsageError, match="no reference problem matches"):
        problem_ids(["*", "none"])
