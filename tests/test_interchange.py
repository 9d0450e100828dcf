"""Problem and answer files: what goes out comes back, and what is damaged is refused with its place (faults 30 to 35)."""
import errno
import io
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import refnode
from refnode.errors import InvalidInputError, ProblemFileError
from refnode.given_steps import rounding_bound, tableau_of, with_given_steps
from refnode.interchange import answer_file, problem_file, safe_reading, schema_check
from refnode.interchange.canonical_json import canonical_json, problem_sha256
from refnode.interchange.json_text import json_text
from refnode.interchange.npz_members import archive_of
from refnode.own_answer import answer_of
from refnode.problems.problem_of_data import DataProblem, problem_of
from refnode.problems.reference_problem import switches_of
from refnode.problems.reference_set import REFERENCE_PROBLEMS

LOTKA = "lotka_volterra/obs21"
SMALL = {"format": "refnode.problem", "version": 1, "rhs": {"expr": ["-theta[0]*y[0]"]}, "t0": 0, "t1": 1.5, "y0": [2], "theta": [0.5],
         "ts": [0.5, 1.5], "loss": {"kind": "sumsq", "data": [[1, 0.25]]}}
ONE = {"expr": ["1"]}
ANSWER = {"format": "refnode.answer", "version": 1, "problem_sha256": "0" * 64, "y": [[1.0, math.nan]], "loss": math.inf,
          "grad": {"y0": [-math.inf], "theta": [0.1]}, "error": None}


def data_of(id):
    return problem_file.checked_problem(REFERENCE_PROBLEMS[id].to_dict())


def refusal(content, name="a.json", folder=None, read=problem_file.read_problem):
    """The message with which a file is refused."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ProblemFileError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- there and back -------------------------------------------------------------------------------

@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize("id", REFERENCE_PROBLEMS)
def test_every_reference_problem_comes_back(id, suffix, tmp_path):
    data = data_of(id)
    assert data == REFERENCE_PROBLEMS[id].to_dict()
    path = tmp_path / f"problem.{suffix}"
    problem_file.write_problem(data, path)
    assert problem_file.read_problem(path) == data
    first = path.read_bytes()
    problem_file.write_problem(data, path)
    assert path.read_bytes() == first               # the same content, the same bytes


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_objects_without_entries_come_back(suffix, tmp_path):
    """They count in the hash, which would not fit otherwise."""
    path, problem = tmp_path / f"problem.{suffix}", problem_file.checked_problem({**SMALL, "names": {}})
    problem_file.write_problem(problem, path)
    assert problem_file.read_problem(path) == problem


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_answers_come_back_non_finite_numbers_too(suffix, tmp_path):
    path = tmp_path / f"answer.{suffix}"
    answer_file.write_answer(ANSWER, path)
    back = answer_file.read_answer(path)
    assert json_text(back) == json_text(ANSWER)
    assert math.isnan(back["y"][0][1]) and back["loss"] == math.inf and back["grad"]["y0"] == [-math.inf]


@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize("times", [0.5, [0.5, 1.25, math.inf], []])
def test_answers_have_the_time_of_one_switch_or_of_each(suffix, times, tmp_path):
    path = tmp_path / f"answer.{suffix}"
    answer_file.write_answer({**ANSWER, "event_time": times}, path)
    assert answer_file.read_answer(path)["event_time"] == times


def test_json_holds_no_raw_non_finite_number(tmp_path):
    path = tmp_path / "answer.json"
    answer_file.write_answer(ANSWER, path)
    def refuse(text):
        raise AssertionError(text)
    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["y"] == [[1.0, "NaN"]] and content["loss"] == "Infinity"


def test_decimals_are_the_shortest_that_come_back(tmp_path):
    path = tmp_path / "answer.json"
    numbers = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -2.5e-7, 123456789.0]
    answer_file.write_answer({**ANSWER, "grad": {"theta": numbers}}, path)
    assert answer_file.read_answer(path)["grad"]["theta"] == numbers
    assert "0.1, 0.3333333333333333, 5e-324" in path.read_text()


def test_arrays_are_named_by_key_paths(tmp_path):
    path = tmp_path / "problem.npz"
    problem_file.write_problem(SMALL, path)
    with np.load(path, allow_pickle=False) as archive:
        assert {"format", "version", "rhs/expr", "y0", "loss/kind", "loss/data"} <= set(archive)
        assert archive["loss/data"].shape == (1, 2) and archive["rhs/expr"].tolist() == ["-theta[0]*y[0]"]


def test_archives_of_numpy_are_read(tmp_path):
    """As a program in Python would write them, compressed or not."""
    arrays = {"format": "refnode.answer", "version": 1, "problem_sha256": "0" * 64, "grad/theta": np.ones(3), "loss": np.float32(0.5)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "answer.npz", **arrays)
        answer = answer_file.read_answer(tmp_path / "answer.npz")
        assert answer["grad"] == {"theta": [1.0, 1.0, 1.0]} and answer["loss"] == 0.5


def test_the_first_bytes_say_what_a_file_is(tmp_path):
    problem_file.write_problem(SMALL, tmp_path / "problem.npz")
    (tmp_path / "problem.json").write_bytes((tmp_path / "problem.npz").read_bytes())
    assert problem_file.read_problem(tmp_path / "problem.json") == problem_file.read_problem(tmp_path / "problem.npz")


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(SMALL).encode())
    assert problem_file.read_problem(tmp_path / "a.json")["y0"] == [2]


# --- the hash -------------------------------------------------------------------------------------

@pytest.mark.parametrize("value, text", [
    (0, "0"), (-0.0, "0"), (1.0, "1"), (0.1, "0.1"), (1e-6, "0.000001"), (1e-7, "1e-7"), (1.5e-7, "1.5e-7"), (1e20, "100000000000000000000"),
    (1e21, "1e+21"), (1.25e300, "1.25e+300"), (5e-324, "5e-324"), (333333333.33333329, "333333333.3333333"), (2**53, "9007199254740992"),
    (123456.75, "123456.75"), (True, "true"), (None, "null"), ("\u20ac\"\\\n\x0f", '"\u20ac\\"\\\\\\n\\u000f"'),
    ({"b": [1.0, 2.5], "a": {}}, '{"a":{},"b":[1,2.5]}'), ({"\U0001f600": 1, "\ufb33": 2}, '{"\U0001f600":1,"\ufb33":2}')])
def test_canonical_text_is_that_of_rfc_8785(value, text):
    assert canonical_json(value) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, {1: 2}, {"a": object()}, np.float32(1)])
def test_what_has_no_canonical_text(value):
    with pytest.raises(InvalidInputError):
        canonical_json(value)


def test_the_hash_is_of_the_question_and_not_of_how_it_is_put():
    data = data_of(LOTKA)
    assert data["sha256"] == REFERENCE_PROBLEMS[LOTKA].to_dict()["sha256"]
    turned = {key: data[key] for key in reversed(data)} | {"t0": 0, "want": ["loss"], "solver": {"mode": "tolerance", "rtol": 1e-3}}
    assert problem_sha256(turned) == data["sha256"]
    assert problem_sha256({**data, "t1": 9.5}) != data["sha256"]
    assert problem_sha256(with_given_steps(data)) != data["sha256"]      # other steps are another question


def test_a_changed_problem_is_noticed(tmp_path):
    data = {**data_of(LOTKA), "t1": 11.0}
    assert "/sha256" in refusal(data, folder=tmp_path)
    data.pop("sha256")
    (tmp_path / "b.json").write_text(json.dumps(data))
    assert problem_file.read_problem(tmp_path / "b.json")["sha256"] == problem_sha256(data)


def test_an_answer_to_another_problem(tmp_path):                          # fault 30
    problem, other = data_of(LOTKA), data_of("lotka_volterra/terminal")
    message = refusal({**ANSWER, "y": [[1.0]], "loss": 1.0, "grad": {}, "problem_sha256": other["sha256"]}, folder=tmp_path,
                      read=lambda path: answer_file.read_answer(path, problem))
    assert "/problem_sha256" in message and "another problem" in message and LOTKA in message


# --- damaged archives: faults 31 and 32 -----------------------------------------------------------

def archive(**members):
    """An archive of raw members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in members.items():
            packed.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def member(text, data=b""):
    text += " " * (-len(text) - 11 % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def test_truncated_empty_and_flipped_archives(tmp_path):
    whole = problem_file.packed(problem_file.checked_problem(SMALL), "a.npz")
    for size in range(2, len(whole), 97):
        refusal(whole[:size], "a.npz", tmp_path)
    assert "without members" in refusal(archive(), "a.npz", tmp_path)
    flipped = bytearray(archive_of({"y0": np.arange(100.0)}))
    flipped[-200] ^= 1
    assert refusal(bytes(flipped), "a.npz", tmp_path)


def test_a_flipped_checksum(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as packed:
        stream = io.BytesIO()
        np.save(stream, np.arange(10.0))
        packed.writestr("y0.npy", stream.getvalue())
    content = buffer.getvalue()
    at = content.index(np.float64(7.0).tobytes())
    assert "CRC" in refusal(content[:at] + b"\x01" + content[at + 1:], "a.npz", tmp_path)


class Trap:
    """Unpickling it would leave a file."""

    def __reduce__(self):
        return open, ("unpickled", "w")


def test_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "b.npz", y0=np.array([Trap()], dtype=object), allow_pickle=True)
    message = refusal((tmp_path / "b.npz").read_bytes(), "a.npz", tmp_path)
    assert "array of objects" in message and "y0.npy" in message
    assert "npz" in message and not (tmp_path / "unpickled").exists()
    assert refusal(pickle.dumps(Trap()), "a.json", tmp_path) and not (tmp_path / "unpickled").exists()


def test_a_header_that_claims_too_much_is_refused_before_its_data(tmp_path):
    """1e12 elements, 1 GiB in one dimension, products that overflow: none is allocated."""
    for shape in ("(1000000000000,)", "(134217728,)", "(4294967296, 4294967296, 4294967296)", "(1000000000000, 0)"):
        message = refusal(archive(y0=member(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}")), "a.npz", tmp_path)
        assert "its header claims" in message
    assert "fewer bytes" in refusal(archive(y0=member("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", b"1234")), "a.npz", tmp_path)
    assert "more bytes" in refusal(archive(y0=member("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", bytes(9))), "a.npz", tmp_path)
    assert "not that of a plain array" in refusal(archive(y0=member("__import__('os').getcwd()")), "a.npz", tmp_path)


# --- damaged JSON: fault 33 -----------------------------------------------------------------------

@pytest.mark.parametrize("content, place", [
    (b"[" * 15_000, "15000 deep"), (b"[" * 100_000, "lists and objects, at most"),
    (b'{"y0": [1, {"a": 1, "b": 2, "a": 3}]}', "/y0/1: the key 'a' stands there twice"),
    (b'{"loss": {"data": [[1, NaN]]}}', "/loss/data/0/1: NaN is not JSON"),
    (b'{"a/b": {"~": [-Infinity]}}', "/a~1b/~0/0: -Infinity is not JSON"),
    (b'{"t0": 1e999}', "/t0: '1e999' is beyond the range"),
    (b'{"t0": ' + b"1" * 401 + b"}", "/t0: a number of 401 characters"),
    (b'{"t0": 1', "not JSON: Expecting ',' delimiter at line 1 column 9"),
    (b'{"t0": "\xff"}', "not UTF-8 at byte 8"),
    (b"", "not JSON"),
    (b"[" + b"1," * 2**20 + b"1]", "values, at most"),
    (b"[" + b"[]," * 100_000 + b"1]", "lists and objects, at most"),
])
def test_json_that_is_none_or_too_much(content, place, tmp_path):
    assert place in refusal(content, folder=tmp_path)


def test_a_file_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with open(path, "wb") as stream:
        stream.truncate(2**30)                      # sparse
    with pytest.raises(ProblemFileError, match=f"{2**30} bytes, at most {16 * 2**20}"):
        problem_file.read_problem(path)


def test_strings_may_hold_brackets_and_quotes():
    text = '{"a": "[[[[\\"{{{{\\\\", "b": ["\\\\\\"["]}'.encode()
    safe_reading.require_moderate(text, "text")
    inside = safe_reading.inside_strings(np.frombuffer(text, np.uint8))
    outside = "".join(chr(c) for c, within in zip(text, inside) if not within)
    assert outside == '{": ", ": ["]}'                 # of a string its closing quote counts as outside


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none.json", "/dev/zero", "a\0b"):
        with pytest.raises(ProblemFileError):
            problem_file.read_problem(path)


# --- content that is no problem -------------------------------------------------------------------

def changed(**changes):
    return {**SMALL, **changes}


@pytest.mark.parametrize("content, place", [
    ([], "at /: expected an object"),
    (changed(format="refnode.answer"), "at /format"),
    (changed(version=2), "at /version: this refnode reads version 1, found 2"),
    (changed(version=True), "at /version"),
    (changed(version=1.0), "at /version"),
    ({k: v for k, v in SMALL.items() if k != "theta"}, "at /: the key 'theta' is missing"),
    (changed(thetta=[1]), "at /: the key 'thetta' is not known here"),
    (changed(y0=["1"]), "at /y0/0: expected number, found '1'"),
    (changed(y0=[True]), "at /y0/0: expected number, found True"),
    (changed(y0=1.0), "at /y0: expected array"),
    (changed(ts=[1.0, 0.5]), "at /ts: ts must be sorted"),
    (changed(ts=[0.5, 1.75]), "at /ts: ts must lie inside"),
    (changed(loss={"kind": "sumsq", "data": [[1]]}), "at /loss/data/0: expected 2 numbers"),
    (changed(loss={"kind": "sumsq", "data": [[1, 2], [3, 4]]}), "at /loss/data: expected 1 rows"),
    (changed(loss={"kind": "square"}), "at /loss/kind: expected one of 'sumsq', 'linear', 'final', 'running', 'sum', found 'square'"),
    (changed(loss={"knd": "sumsq"}), "at /loss: the key 'kind' is missing"),
    (changed(loss={"kind": "linear", "data": [[1, 2]]}), "at /loss: the key 'weights' is missing"),
    (changed(solver={"mode": "free"}), "at /solver/mode: expected one of 'tolerance', 'fixed', found 'free'"),
    (changed(loss={"kind": "sum", "terms": [{"kind": "sumsq", "data": None}, {"kind": "linear"}]}), "at /loss/terms/1: the key 'weights'"),
    (changed(loss={"kind": "final", "expr": "t*y[0]"}), "at /loss/expr: t may not stand here"),
    (changed(rhs={"expr": []}), "at /rhs/expr: expected 1 entries, found 0"),
    (changed(rhs={"expr": ["y[1]"]}), "at /rhs/expr/0: y[1], where there are 1"),
    (changed(rhs={"expr": ["y[0]"], "mlp": {}}), "at /rhs"),
    (changed(rhs={"mlp": {"layers": [1, 3, 1], "act": "tanh"}}), "at /rhs/mlp: such a network has 10 parameters, found 1"),
    (changed(rhs={"mlp": {"layers": [1, 0, 1], "act": "tanh"}}), "at /rhs/mlp/layers/1: expected a number of at least 1"),
    (changed(rhs={"pieces": [{"expr": ["1"]}], "switch": {"time": "theta[0]"}}), "at /rhs/pieces: expected at least 2 entries"),
    (changed(rhs={"pieces": [{"expr": ["1"]}, {"expr": ["2"]}], "switch": {"time": "theta[1]"}}), "at /rhs/switch/time: theta[1]"),
    (changed(rhs={"pieces": [ONE, ONE, ONE], "switch": {"time": "1"}}), "at /rhs/pieces: expected 2 entries, found 3"),
    (changed(rhs={"pieces": [ONE, ONE], "switch": [{"time": "1"}, {"state": "y[0]"}]}), "at /rhs/pieces: expected 3 entries, found 2"),
    (changed(rhs={"pieces": [ONE, ONE], "switch": [{"time": "1"}]}), "at /rhs/switch: expected "),
    (changed(rhs={"pieces": [ONE, ONE, ONE], "switch": [{"time": "1"}, {"state": "y[1]"}]}), "at /rhs/switch/1/state: y[1]"),
    (changed(rhs={"pieces": [ONE, ONE, ONE], "switch": [{"time": "1"}, {"place": "y[0]"}]}), "at /rhs/switch/1"),
    (changed(rhs={"pieces": [ONE] * 34, "switch": [{"time": "1"}] * 33}), "at /rhs/pieces: 34 entries, at most 33"),
    (changed(names={"y": ["a", "b"]}), "at /names/y: expected 1 entries"),
    (changed(seeds={"cotangent": [[1.0]]}), "at /seeds/cotangent/0: expected 2 numbers"),
    (changed(hvp_direction={"y0": [1.0], "theta": []}), "at /hvp_direction/theta: expected 1"),
    (changed(solver={"mode": "tolerance", "rtol": 0}), "at /solver/rtol: expected a number above 0"),
    (changed(want=["y", "everything"]), "at /want/1: expected one of"),
])
def test_what_is_wrong_is_named_with_its_place(content, place, tmp_path):
    assert place in refusal(content, folder=tmp_path)


def given(steps, **tableau):
    table = {"A": [[0.0, 0.0], [0.5, 0.0]], "b": [0.0, 1.0], "c": [0.0, 0.5], **tableau}
    return changed(solver={"mode": "fixed", "tableau": table, "steps": steps})


@pytest.mark.parametrize("content, place", [
    (given([0.5, -0.5, 1.5]), "at /solver/steps: expected steps with the sign"),
    (given([0.5, 0.5]), "at /solver/steps: they lead to 1, not to t1 = 1.5"),
    (given([0.75, 0.75]), "at /solver/steps: no step ends at the observation time 0.5"),
    (given([0.5, 1.0], b=[0.5, 0.25]), "at /solver/tableau/b: its sum is 0.75"),
    (given([0.5, 1.0], c=[0.0, 1.0]), "at /solver/tableau/A/1: its sum is 0.5"),
    (given([0.5, 1.0], A=[[0.0, 0.0], [0.0, 0.5]]), "at /solver/tableau/A/1: not strictly lower triangular"),
    (given([0.5, 1.0], A=[[0.0, 0.0]]), "at /solver/tableau/A: expected 2 entries"),
])
def test_given_steps_are_checked(content, place, tmp_path):
    assert place in refusal(content, folder=tmp_path)
    problem_file.checked_problem(given([0.25, 0.25, 1.0]))


@pytest.mark.parametrize("text", [                                                        # fault 34
    "__import__('os').system('touch unpickled')", "y[0].__class__", "().__class__.__bases__", "open('x')", "exec('1')", "lambda: 1",
    "9**9**9**9", "y[0]**(10**9)", "(((y[0]**9)**9)**9)", "[y[0] for y in y]", "y[-1]", "theta['a']", "f'{y[0]}'", "1/0", "exp(1000)",
    "y[0]" + "+y[0]" * 3000, "(" * 150 + "1" + ")" * 150 + "+", "-" * 3000 + "1", "y[0] if t else 1", "1e999", "2j", "'a'", "True", "", "\0", "\ud800"])
def test_malicious_expressions_are_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(changed(rhs={"expr": [text]}), folder=tmp_path)
    assert "/rhs/expr/0" in message and not (tmp_path / "unpickled").exists() and len(message) < 600


@pytest.mark.parametrize("content, place", [
    ({**ANSWER, "y": [[1.0]], "loss": "nan", "grad": {}}, "at /loss: expected"),
    ({**ANSWER, "y": [[1.0]], "loss": 1.0, "grad": {"y1": [1.0]}}, "at /grad: the key 'y1' is not known here; known are y0, theta"),
    ({**ANSWER, "y": [[1.0]], "loss": 1.0, "grad": {}, "truth": "true"}, "at /truth: expected one of 'exact'"),
    ({**ANSWER, "y": [[1.0]], "loss": 1.0, "grad": {}, "problem_sha256": "0" * 63}, "at /problem_sha256"),
    ({**ANSWER, "y": [[1.0]], "loss": 1.0, "grad": {}, "stats": {"a b": 1}}, "at /stats/a b"),
    ({**ANSWER, "y": [[1.0]], "loss": 1.0, "grad": {}, "event_time": "soon"}, "at /event_time: expected a number or an array of numbers, found"),
    ({**ANSWER, "y": [[1.0]], "loss": 1.0, "grad": {}, "event_time": [0.5, [1.0]]}, "at /event_time/1: expected a number"),
])
def test_what_is_wrong_with_an_answer(content, place, tmp_path):
    assert place in refusal(content, folder=tmp_path, read=answer_file.read_answer)


# --- schemas --------------------------------------------------------------------------------------

def schemas_inside(schema):
    """A schema and all those in it."""
    yield schema
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            for inner in value.values():
                yield from schemas_inside(inner)
        elif key in ("oneOf", "anyOf"):
            for inner in value:
                yield from schemas_inside(inner)
        elif key in ("items", "additionalProperties", "propertyNames") and isinstance(value, dict):
            yield from schemas_inside(value)


@pytest.mark.parametrize("name", ["problem", "answer"])
def test_the_schemas_use_only_keywords_that_are_checked(name):
    for schema in schemas_inside(schema_check.schema_named(name)):
        assert set(schema) <= set(schema_check.KEYWORDS) | schema_check.ANNOTATIONS


def test_another_validator_agrees():
    """On whole files, and on those of the list above that a schema can refuse."""
    jsonschema = pytest.importorskip("jsonschema", reason="a second validator of the schemas")
    validators = {name: jsonschema.Draft202012Validator(schema_check.schema_named(name)) for name in ("problem", "answer")}
    for validator in validators.values():
        validator.check_schema(validator.schema)
    for id in REFERENCE_PROBLEMS:
        validators["problem"].validate(data_of(id))
    validators["problem"].validate(with_given_steps(data_of(LOTKA), n_steps=20))
    validators["answer"].validate(json.loads(json_text(ANSWER)))
    for content in (changed(thetta=[1]), changed(y0=["1"]), changed(loss={"kind": "square"}), changed(rhs={"expr": ["y[0]"], "mlp": {}}),
                    changed(want=["everything"]), changed(version=2), changed(sha256="0")):
        assert not validators["problem"].is_valid(content)


def test_the_schemas_are_in_the_package():
    config = (os.path.dirname(os.path.dirname(refnode.__file__)))
    with open(os.path.join(config, "setup.cfg"), encoding="utf-8") as stream:
        assert "refnode.interchange = schema/*.json" in stream.read()


# --- writing: fault 35 ----------------------------------------------------------------------------

@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file(failing, fault, tmp_path, monkeypatch):
    path = tmp_path / "answer.json"
    answer_file.write_answer(ANSWER, path)
    before = path.read_bytes()

    def fail(*arguments):
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(type(fault)):
            answer_file.write_answer({**ANSWER, "loss": 2.0}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["answer.json"]


def test_a_full_disk(tmp_path):
    """Truly full: a limit on the size of files, in a process of its own."""
    path = tmp_path / "answer.json"
    answer_file.write_answer(ANSWER, path)
    before = path.read_bytes()
    script = f"""
import resource, signal
from refnode.interchange import answer_file
answer = answer_file.read_answer({str(path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    answer_file.write_answer({{**answer, "grad": {{"theta": [0.1] * 10000}}}}, {str(path)!r})
except OSError as error:
    print("refused:", error.strerror)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "refused: File too large" in result.stdout, result.stderr
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["answer.json"]


# --- from data to problems ------------------------------------------------------------------------

def test_a_problem_of_the_set_is_solved_with_its_hand_written_field():
    data = {**data_of(LOTKA), "solver": {"mode": "tolerance", "rtol": 1e-6}}
    assert problem_of(data) is REFERENCE_PROBLEMS[LOTKA].problem
    assert DataProblem(data).record is REFERENCE_PROBLEMS[LOTKA]


@pytest.mark.parametrize("id", ["lotka_volterra/loss_2m30", pytest.param("mlp/2_16_2", marks=pytest.mark.slow), *(
    pytest.param(id, marks=pytest.mark.slow) for id in ("lotka_volterra/running_cost", "exponential_decay/mixed_loss"))])
def test_derivatives_from_text_equal_those_by_hand(id):
    """A problem that is none of the set only by its name: SymPy's derivatives against those written by hand."""
    data = data_of(id)
    own = problem_file.checked_problem({**{k: v for k, v in data.items() if k != "sha256"}, "id": "mine"})
    assert DataProblem(own).record is None
    by_text, by_hand = (answer_of({**each, "want": ["grad_y0", "grad_theta", "hvp_y0", "hvp_theta"]}, rtol=1e-10) for each in (own, data))
    for key in ("grad", "hvp"):
        for block in ("y0", "theta"):
            size = np.max(np.abs(by_hand[key][block]))
            assert np.allclose(by_text[key][block], by_hand[key][block], rtol=0, atol=1e-10 * size)
    assert by_text["loss"] == pytest.approx(by_hand["loss"], rel=1e-11)


def test_a_changed_reference_problem_is_a_problem_of_its_own():
    data = {k: v for k, v in data_of(LOTKA).items() if k != "sha256"} | {"theta": [1.25, 1.0, 3.0, 1.0]}
    problem = DataProblem(data)
    assert problem.record is None and problem.kappa is None and problem.id == f"{LOTKA} (of your own)"


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_several_switches_come_back_as_they_were(suffix, tmp_path):
    data = data_of("bounce/thrice")
    problem_file.write_problem(data, tmp_path / f"a.{suffix}")
    found = problem_file.read_problem(tmp_path / f"a.{suffix}")
    assert found == problem_file.checked_problem(data) and [*map(list, found["rhs"]["switch"])] == [["state"]] * 3
    assert switches_of(found["rhs"]) == found["rhs"]["switch"]


def test_one_switch_is_a_list_of_one_and_its_file_is_as_before():
    assert switches_of(data_of("bounce/once")["rhs"]) == [{"state": "-y[0]"}] and switches_of(data_of("pendulum/swing")["rhs"]) == []
    assert data_of("bounce/once")["sha256"] == "3edd8de62e59354c5846323d8cc5ad9a21ed542d78a3fa79c44181588e9cd6b6"


def test_a_switch_of_ones_own_is_refused():
    data = {k: v for k, v in data_of("kink_forcing/ramp").items() if k != "sha256"} | {"id": "mine"}
    with pytest.raises(InvalidInputError, match="switch"):
        problem_of(problem_file.checked_problem(data))


def test_refnode_answers_with_all_that_is_wanted(tmp_path):
    seeds = {"cotangent": [[1.0, 0.5]], "tangent_y0": [1.0], "tangent_theta": [0.25]}
    data = problem_file.checked_problem({**SMALL, "seeds": seeds, "want": ["y", "loss", "grad_y0", "jvp", "vjp"]})
    answer = answer_of(data)
    assert set(answer["grad"]) == {"y0"} and answer["problem_sha256"] == data["sha256"] and answer["error"] is None
    decay = np.exp(-0.5 * np.array([0.5, 1.5]))
    assert np.allclose(answer["y"], 2.0 * decay, rtol=1e-8)
    jvp = decay * (1.0 - 0.25 * 2.0 * np.array([0.5, 1.5]))
    assert np.allclose(answer["jvp"], jvp, rtol=1e-8)
    assert np.allclose(answer["vjp"]["y0"], decay @ [1.0, 0.5], rtol=1e-8)
    answer_file.write_answer(answer, tmp_path / "a.json")
    assert answer_file.read_answer(tmp_path / "a.json", data) == answer


# --- given steps ----------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5", "dop853"])
def test_given_steps_are_the_methods_own(method):
    """refnode with the tableau from the file, and refnode with its own tableau, on the same steps."""
    data = with_given_steps(data_of(LOTKA), method, 60)
    assert all(math.log2(h).is_integer() for h in data["solver"]["steps"])          # exact clocks everywhere
    answer, record = answer_of(data), REFERENCE_PROBLEMS[LOTKA].problem
    own = refnode.gradient(record, "discrete", method=method, steps=data["solver"]["steps"])
    size = np.max(np.abs(own.theta))
    assert answer["truth"] == "discrete_frozen" and set(answer["grad"]) == {"y0", "theta"}
    bound = rounding_bound(len(data["solver"]["steps"]), 106.0)                     # kappa of Lotka-Volterra
    assert np.max(np.abs(answer["grad"]["theta"] - own.theta)) <= bound * size and bound < 2e-13


def test_a_tableau_of_a_file_is_the_one_that_was_written():
    data = with_given_steps(data_of(LOTKA), "tsit5", 40)
    found, own = tableau_of(data["solver"]["tableau"]), refnode.steppers.tableaus.tableau("tsit5")
    assert np.array_equal(found.A_array, own.A_array) and np.array_equal(found.b_array, own.b_array) and found.name == "tsit5"


def test_backwards_and_single_observations_have_given_steps():
    for id in ("regulator/backwards", "lotka_volterra/terminal", "lotka_volterra/running_cost"):
        data = with_given_steps(data_of(id), n_steps=50)
        exact = REFERENCE_PROBLEMS[id].problem
        own = refnode.gradient(exact, "discrete", method="rk4", steps=data["solver"]["steps"])
        assert np.allclose(answer_of(data)["grad"]["theta"], own.theta, rtol=1e-12, atol=1e-13 * np.max(np.abs(own.theta)))
