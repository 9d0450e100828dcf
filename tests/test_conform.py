"""The conformance matrix, filled by an adapter that does everything wrong that a library can do."""
import dataclasses
import json
import math
import re

import numpy as np
import pytest

import refnode
from refnode.adapters import adapter_named
from refnode.cli import main
from refnode.conformance import matrix as matrices
from refnode.conformance import matrix_page
from refnode.conformance.cell import VERDICTS, Truth, judge, verdict_of
from refnode.conformance.cell_process import CellProcess, Outcome, Request, processor_seconds
from refnode.conformance.matrix import Matrix, OutcomeFile, fill, requests_of
from refnode.conformance.ode_reference import Inputs, OdeReference
from refnode.conformance.score import level_of
from refnode.errors import InvalidInputError
from refnode.fields.classical import exponential_decay
from refnode.problems.reference_problem import expr, final, reference

FAKE = "tests.fake_adapter"
LIMIT = 1.0
EXPECTED = {"right": "PASS", "wrong": "FAIL", "warns": "FAIL", "nan": "FAIL", "shape": "FAIL", "raises": "ERROR",
            "hangs": "HANG", "spins": "HANG", "dies": "CRASH", "unsupported": "UNSUPPORTED", "prints": "PASS"}


def decay_record(**changes):
    """y' = -theta y, L = y(1)^2: everything in closed form."""
    arguments = {"y0": [1.5], "theta": [0.5], "span": (0.0, 1.0), "loss": final("y[0]**2"), "exposes": (), "note": "decay",
                 **changes}
    return reference("fake/decay", exponential_decay, expr("-theta[0]*y[0]"), **arguments)


def decay_truth(record):
    """The `Truth` of `decay_record`, without a solver."""
    y1 = record.y0[0] * math.exp(-record.theta[0])
    bars = np.array([2.0 * y1 * math.exp(-record.theta[0]), -2.0 * y1 ** 2, 2.0 * y1 ** 2 * record.theta[0],
                     -2.0 * y1 ** 2 * record.theta[0]])
    seeds = (np.zeros((1, 1)), np.array([2.0 * y1]))
    known = OdeReference(y=np.array([[y1]]), y_uncertainty=np.zeros((1, 1)), loss=y1 ** 2, loss_uncertainty=0.0, gradient=bars,
                         uncertainty=np.zeros(4), seeds=seeds, source="closed form", y0=np.array(record.y0))
    return Truth(record, Inputs.of(record.problem), known)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The matrix of the fake adapter and one that cannot be imported, and the file of its outcomes."""
    record, path = decay_record(), tmp_path_factory.mktemp("conform") / "outcomes.jsonl"
    import refnode.conformance.cell_process as module
    patience, module.CellProcess.__init__.__defaults__ = module.CellProcess.__init__.__defaults__, (60.0, 1.0)
    try:
        matrix = matrices.conform([record], [FAKE, "tests.no_such_adapter"], (1e-6, 1e-9), limit=LIMIT, jobs=2,
                                  outcomes=OutcomeFile(path), truths={record.id: decay_truth(record)})
    finally:
        module.CellProcess.__init__.__defaults__ = patience
    return matrix, path


def cell_of(matrix, mode, rtol=1e-9):
    (cell,) = [cell for cell in matrix.cells if cell.mode == mode and cell.rtol == rtol]
    return cell


@pytest.mark.parametrize("mode, verdict", EXPECTED.items())
def test_what_goes_wrong_is_a_cell(filled, mode, verdict):
    matrix, _ = filled
    assert cell_of(matrix, mode).verdict == verdict


def test_cells_say_what_happened(filled):
    matrix, _ = filled
    assert cell_of(matrix, "right").digits >= 15.0 and cell_of(matrix, "right").nfev == 7
    assert cell_of(matrix, "raises").message == "ValueError: no gradient today second line"
    assert cell_of(matrix, "dies").message == "the process ended by SIGABRT"
    assert "no answer within 1 s" in cell_of(matrix, "hangs", 1e-6).message
    assert "not tried" in cell_of(matrix, "hangs", 1e-9).message            # it hung at a looser tolerance
    assert cell_of(matrix, "nan").message == "not finite, first at theta[0] rate"
    assert "shape" in cell_of(matrix, "shape").message
    assert cell_of(matrix, "prints").said == "CVODE warning: mxhnil"
    assert "theta[0]" in cell_of(matrix, "wrong").worst


def test_silence_is_noticed(filled):
    matrix, _ = filled
    assert cell_of(matrix, "wrong").silent and not cell_of(matrix, "warns").silent
    assert cell_of(matrix, "warns").warned == ["UserWarning: this may be wrong"]
    assert not cell_of(matrix, "right").silent


def test_a_library_that_is_not_there_is_said(filled):
    matrix, _ = filled
    assert "tests.no_such_adapter" in matrix.tools["tests.no_such_adapter"]["reason"]
    assert "did not run" in matrix_page.page(matrix) and "not run" in matrices.markdown_text(matrix)


def test_a_run_is_taken_up_again(filled):
    """No request is sent twice for the same versions; for others it is."""
    _, path = filled
    record, asked = decay_record(), []
    outcomes = OutcomeFile(path)
    fill([record], [FAKE], (1e-6, 1e-9), limit=LIMIT, outcomes=outcomes, progress=lambda *a: asked.append(a))
    assert asked == []
    for outcome in outcomes.found.values():
        outcome.versions = {"fake": "0.9"}
    fill([record], [FAKE], (1e-9,), limit=LIMIT, choice=f"{FAKE}:right", outcomes=OutcomeFile(None),
         progress=lambda *a: asked.append(a))
    assert len(asked) == 1
    assert outcomes.get(asked[0][0], {"fake": "1.0"}, LIMIT) is None
    hung = Request(record.id, record.to_dict()["sha256"], FAKE, "hangs", "exact", 1e-6, 1e-6)
    assert outcomes.get(hung, {"fake": "0.9"}, LIMIT) and not outcomes.get(hung, {"fake": "0.9"}, 2.0 * LIMIT)


def test_summary_counts(filled):
    matrix, _ = filled
    row = matrix.summary()[(FAKE, "wrong", "exact")]
    assert row["FAIL"] == row["silent"] == row["cells"] == 1 and row["PASS"] == 0
    assert matrix.judged_at == 1e-9
    assert Matrix([], {}, {}, [1e-3, 1e-6], 1.0).judged_at == 1e-6


# --- the page -------------------------------------------------------------------------------------

def test_json_is_complete_and_strict(filled):
    matrix, _ = filled
    data = json.loads(matrices.json_text(matrix), parse_constant=lambda name: pytest.fail(name))
    assert len(data["cells"]) == len(matrix.cells) == 2 * len(EXPECTED)
    assert data["format"] == "refnode.conformance" and set(data["verdicts"]) == set(VERDICTS)


def test_page_is_one_file_and_escapes(filled):
    matrix, _ = filled
    record = decay_record()
    matrix = Matrix([*matrix.cells], dict(matrix.problems), matrix.tools, matrix.tolerances, matrix.limit)
    matrix.problems[record.id] = {**matrix.problems[record.id], "note": "<script>alert(1)</script>"}
    text = matrix_page.page(matrix, "refnode conform x </script>")
    assert not re.search(r'(src|href)="(?!#)', text) and "http" not in text
    assert "<script>alert" not in text and text.count("</script>") == 2
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1).replace("<\\/", "</"))
    assert len(data["cells"]) == len(matrix.cells)
    for verdict in set(EXPECTED.values()):
        assert f'class="{verdict}' in text


def test_the_page_counts_gradients_not_cells(filled):
    """An exception, a time-out and a crash are cells without a gradient."""
    matrix, _ = filled
    verdicts = [cell.verdict for cell in matrix.cells if cell.rtol == matrix.judged_at]
    judged = sum(verdict in ("PASS", "FLOOR", "DEGRADED", "FAIL") for verdict in verdicts)
    assert {"ERROR", "HANG", "CRASH", "FAIL", "PASS"} <= set(verdicts) and judged < len(verdicts)
    assert f"Of {judged} gradients that were judged, <b>{verdicts.count('FAIL')} are wrong" in matrix_page.page(matrix)


def test_tolerances_of_the_page_match_the_cells(filled):
    """The choice of a tolerance compares texts as JavaScript writes numbers."""
    matrix, _ = filled
    assert [matrix_page._script_number(t) for t in (1e-3, 1e-6, 1e-9, 1e-12)] == ["0.001000", "0.000001", "1e-9", "1e-12"]


def test_markdown_has_a_row_for_each_problem(filled):
    matrix, _ = filled
    text = matrices.markdown_text(matrix, "refnode conform fake")
    assert "| fake/decay |" in text and "`refnode conform fake`" in text


# --- judgement ------------------------------------------------------------------------------------

def request_for(record, rtol=1e-9):
    return Request(record.id, "0", "fake", "right", "exact", rtol, rtol)


def answered(y0, theta, **more):
    return Outcome("answered", {"y": [[1.0]], "loss": 1.0, "grad": {"y0": y0, "theta": theta}, "stats": {}, **more})


@pytest.mark.parametrize("factor, verdict", [(1.0, "PASS"), (1 + 5e-5, "PASS"), (1 + 1e-3, "DEGRADED"), (1.02, "FAIL"), (-1.0, "FAIL")])
def test_thresholds(factor, verdict):
    """kappa = 100 where nobody measured it: at 1e-9 E <= 1e-4 passes, E > 1e-2 fails."""
    record = decay_record()
    truth = decay_truth(record)
    y0, theta = truth.reference.gradient[:1], truth.reference.gradient[1:2]
    cell = judge(request_for(record), answered(list(y0), list(theta * factor)), truth)
    assert cell.verdict == verdict
    assert cell.score == pytest.approx(cell.error / (100.0 * 1e-9))


def test_the_floor_is_no_failure():
    """What absolute tolerances excuse: an error that is all of a tiny gradient."""
    level = level_of(None, 1.0, 1e-9, 1e-9)
    assert verdict_of(0.9, 0.0, 0.0, level) == "FLOOR"
    assert verdict_of(0.9, 0.9, 0.0, level) == "FAIL"
    assert verdict_of(0.9, 0.9, 0.5, level) == "UNTESTABLE"           # the reference is no better
    assert verdict_of(0.9, 0.9, 0.0, level, known=False) == "UNTESTABLE"


def test_a_condition_number_beyond_the_tolerance_excuses():
    """kappa tol > 0.1: no verdict, however large the error; nor a verdict against what is right."""
    record = dataclasses.replace(decay_record(), kappa=1e9)
    truth = decay_truth(record)
    right = truth.reference.gradient
    assert judge(request_for(record), answered([right[0]], [-right[1]]), truth).verdict == "UNTESTABLE"
    assert judge(request_for(record), answered([right[0]], [right[1]]), truth).verdict == "PASS"


def test_a_cell_without_reference_is_not_judged():
    record = decay_record()
    cell = judge(request_for(record), answered([1.0], [1.0]), None)
    assert cell.verdict == "UNTESTABLE" and cell.message == "no reference"


# --- requests and processes -----------------------------------------------------------------------

def test_requests_go_from_loose_to_tight_and_scale_the_absolute_tolerance():
    record = decay_record(y0=[2.0 ** -20])
    modes = {"a": {"methods": ("x", "y")}, "b": {"methods": ("x",)}}
    requests = requests_of(record, "tool", modes, (1e-9, 1e-6))
    assert [(r.mode, r.method, r.rtol) for r in requests[:3]] == [("a", "x", 1e-6), ("a", "x", 1e-9), ("a", "y", 1e-6)]
    assert requests[0].atol == 1e-6 * 2.0 ** -20
    assert {(r.mode, r.method) for r in requests_of(record, "tool", modes, (1e-9,), "tool:a:y,tool:b")} == {("a", "y"), ("b", "x")}


def test_processor_time_is_read_where_the_system_tells():
    import os
    assert not processor_seconds(os.getpid()) < 0.0
    assert math.isnan(processor_seconds(-1))


def test_an_import_that_ends_the_process_is_a_reason(monkeypatch):
    monkeypatch.setenv("REFNODE_FAKE_BROKEN", "1")
    with CellProcess(FAKE, 60.0) as process:
        assert process.reason == "ImportError: no module named fake"
        assert process.ask({}, None, 1.0).status == "unavailable"


# --- the command ----------------------------------------------------------------------------------

def test_unknown_names_are_refused(capsys):
    with pytest.raises(InvalidInputError, match="no adapter 'jax'; there are torchdiffeq"):
        adapter_named("jax")
    with pytest.raises(InvalidInputError, match="no reference problem matches"):
        matrices.problems_named("nothing/*")
    assert main(["conform", "refnode", "--tolerances", "tight"]) == 2
    assert main(["conform", "refnode", "--matrix", "page.pdf"]) == 2
    assert main(["conform", "refnode", "--limit", "-1"]) == 2
    assert "tolerances" in capsys.readouterr().err


def test_command_writes_the_matrix(tmp_path, capsys):
    """refnode's own discrete adjoint on one problem, through the command line."""
    page, data = tmp_path / "matrix.html", tmp_path / "matrix.json"
    assert main(["conform", "refnode", "--problems", "pendulum/swing", "--ways", "refnode:discrete:dopri5", "--tolerances", "1e-9",
                 "--quiet", "--matrix", str(page), "--matrix", str(data), "--outcomes", str(tmp_path / "kept.jsonl")]) == 0
    (cell,) = json.loads(data.read_text())["cells"]
    assert cell["verdict"] == "PASS" and cell["digits"] > 6.0
    assert "refnode conform refnode --problems pendulum/swing" in page.read_text()
    assert capsys.readouterr().out.split() == [str(page), str(data)]
    assert refnode.__version__ in page.read_text()
