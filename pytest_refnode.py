"""The pytest plugin of refnode. Loaded by every run of pytest where refnode is installed, so it imports nothing of it.

    def test_gradient(refnode_check):
        refnode_check(fun, x, grad)                     # raises unless the gradient is right

    @pytest.mark.refnode(problems="lotka_volterra/*", rtol=1e-7)
    def test_adjoint(refnode_check):                    # once for each problem
        refnode_check(my_adjoint)                       # my_adjoint(problem, rtol, atol) -> answer

With ``--refnode-report=DIR`` all reports of the run are written there. The work is in `refnode.pytest_plugin`.
"""
import os

import pytest

MARKER = ('refnode(problems="*", **options): options of the checks by the fixture refnode_check (rtol, atol, …; '
          'inconclusive="fail", "skip" or "pass"); with problems, a name or several with * and ?, the test runs once for '
          "each reference problem")
REPORTS = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("refnode", "gradient checks by refnode")
    group.addoption("--refnode-report", metavar="DIR", help="write all reports of refnode_check into this folder: "
                    "index.html, report.json, report.md, report.txt and junit.xml")


def pytest_configure(config):
    config.addinivalue_line("markers", MARKER)
    folder = config.getoption("refnode_report")
    if folder and not hasattr(config, "workerinput"):                  # the workers of xdist send theirs
        try:
            os.makedirs(os.path.join(config.invocation_params.dir, folder), exist_ok=True)
        except OSError as error:
            raise pytest.UsageError(f"--refnode-report {folder}: {error.strerror}") from error
        config.pluginmanager.register(_Writer(config), "refnode_report_writer")


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("refnode")
    if marker and "problems" in marker.kwargs and "refnode_check" in metafunc.fixturenames:
        from refnode.pytest_plugin import problem_ids
        metafunc.parametrize("refnode_check", problem_ids(marker.kwargs["problems"]), indirect=True)


@pytest.fixture
def refnode_check(request):
    """Checks a gradient, and raises unless it is right: `refnode_check(fun, x, grad)`, or `refnode_check(answer)`."""
    from refnode.pytest_plugin import RefnodeCheck
    return RefnodeCheck(request.node, getattr(request, "param", None), request.node.stash.setdefault(REPORTS, []))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call" and item.stash.get(REPORTS, None):
        outcome.get_result().refnode_reports = item.stash[REPORTS]     # numbers and strings: xdist sends them on


class _Writer:
    """Collects what the tests report, and writes it at the end, also of a run that was interrupted."""

    def __init__(self, config):
        self.config, self.found = config, []

    def pytest_runtest_logreport(self, report):
        self.found += getattr(report, "refnode_reports", [])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self):
        from refnode.pytest_plugin import write_all
        self.told = write_all(self.config.getoption("refnode_report"), self.found, self.config.invocation_params.dir)

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line(self.told)
