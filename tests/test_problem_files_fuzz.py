"""Mutated files: each is accepted, or refused with ProblemFileError; never another exception, 2 s or 1 GiB.

Bytes, the structure of JSON, its tokens, and the members and headers of npz archives are mutated. What is accepted is
whole: it can be hashed, written and read again. The thousands run under the mark ``slow``.
"""
import copy
import functools
import io
import json
import math
import resource
import time
import zipfile

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="the fuzz tests need hypothesis (extra `test`)")
from hypothesis import HealthCheck, given, settings                     # noqa: E402
from hypothesis import strategies as st                                 # noqa: E402

from refnode.errors import ProblemFileError                             # noqa: E402
from refnode.given_steps import with_given_steps                        # noqa: E402
from refnode.interchange.answer_file import answer_from, checked_answer # noqa: E402
from refnode.interchange.key_paths import arrays_from                   # noqa: E402
from refnode.interchange.problem_file import checked_problem, content_of, packed     # noqa: E402
from refnode.problems.reference_set import REFERENCE_PROBLEMS           # noqa: E402

SECONDS, BYTES = 2.0, 2**30
FEW, MANY = 75, 2600               # examples of each of the four tests: 300 fast, 10 400 slow
COUNTS = {"files": 0, "accepted": 0, "refused": 0, "seconds": 0.0}

ANSWER = {"format": "refnode.answer", "version": 1, "problem_sha256": "0" * 64, "tool": {"name": "a", "version": "1"},
          "truth": "exact", "y": [[1.5, 2.0], [math.nan, -math.inf]], "loss": 0.25,
          "grad": {"y0": [1.0, 2.0], "theta": [0.5], "t0": 1.0, "t1": -2.0, "ts": [0.0, 1e-300]},
          "stats": {"nfev": 10, "rtol": 1e-9}, "error": None}


@functools.cache
def originals():
    """Whole problems and an answer, with every form of right-hand side, loss and solver among them."""
    ids = ("lotka_volterra/obs21", "lotka_volterra/running_cost", "mlp/2_16_2", "kink_forcing/ramp", "logistic/hessian", "bounce/thrice")
    problems = [checked_problem(REFERENCE_PROBLEMS[id].to_dict()) for id in ids]
    seeds = {"cotangent": [[1.0]], "tangent_y0": [1.0], "tangent_theta": [0.5, 0.25]}
    problems[4] = checked_problem({**{k: v for k, v in problems[4].items() if k != "sha256"}, "seeds": seeds,
                                   "solver": {"mode": "tolerance", "rtol": 1e-9, "atol": 0.0}, "want": ["y", "jvp"]})
    return [*problems, with_given_steps(problems[0], "rk4", 30), ANSWER]


@functools.cache
def files(suffix):
    """Their bytes."""
    return [packed(content, f"a.{suffix}") for content in originals()]


def survives(content):
    """Read bytes as a problem and as an answer; raises unless each is accepted and whole, or refused in time."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    COUNTS["files"] += 1
    for read in (read_problem_bytes, lambda content: answer_from(content, "file")):
        started, found = time.process_time(), None
        try:
            found = read(content)
        except ProblemFileError as error:
            assert len(str(error)) < 3000 and str(error).isprintable(), error
        spent = time.process_time() - started
        COUNTS["seconds"] = max(COUNTS["seconds"], spent)
        COUNTS["refused" if found is None else "accepted"] += 1
        assert spent < SECONDS
        assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) < BYTES
        if found is not None and len(content) < 10**5:
            comes_back(found)


def comes_back(found):
    """What was accepted can be written and read again."""
    for suffix in ("json", "npz"):
        again = content_of(packed(found, f"a.{suffix}"), "again")
        (checked_answer if "problem_sha256" in again else checked_problem)(again)


def read_problem_bytes(content):
    return checked_problem(content_of(content, "file"), "file")


def fuzz(strategy):
    """Two tests of one strategy: some hundreds of examples together, and ten thousand under the mark slow."""
    def few(content):
        survives(content)

    def many(content):
        survives(content)

    def options(count):
        return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))

    return options(FEW)(given(strategy)(few)), pytest.mark.slow(options(MANY)(given(strategy)(many)))


# --- bytes ----------------------------------------------------------------------------------------

TOKENS = [b"", b"\0", b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"NaN", b"-Infinity", b"1e999", b"-0", b"null", b"true",
          b'"sha256":0,', b"9" * 500, b"[" * 40, b"\xff", b"PK\x03\x04", b"\x93NUMPY", b'"y0":', b"\\ud800", b"1" * 5000,
          b"," * 1000]


@st.composite
def edited(draw, content):
    """Bytes with a few pieces overwritten, inserted, deleted, repeated or cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at, length = draw(st.integers(0, max(len(content) - 1, 0))), draw(st.integers(0, 40))
        piece = draw(st.one_of(st.binary(max_size=8), st.sampled_from(TOKENS)))
        kind = draw(st.sampled_from(["overwrite", "insert", "delete", "repeat", "cut", "flip"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        content[at:at + (length if kind in ("overwrite", "delete") else 0)] = {
            "delete": b"", "cut": b"", "flip": b"", "repeat": bytes(content[at:at + length]) * 3}.get(kind, piece)
        if kind == "cut":
            del content[at:]
    return bytes(content)


json_bytes = st.sampled_from(range(7)).flatmap(lambda i: edited(files("json")[i]))
npz_bytes = st.sampled_from(range(7)).flatmap(lambda i: edited(files("npz")[i]))

test_json_bytes, test_json_bytes_many = fuzz(json_bytes)
test_npz_bytes, test_npz_bytes_many = fuzz(npz_bytes)


# --- the structure of JSON ------------------------------------------------------------------------

TEXTS = ["theta[0]*y[0]", "__import__('os').system('true')", "y[0].__class__", "9**9**9**9", "y[0]**(10**9)", "(" * 300 + "1" + ")" * 300,
         "-" * 5000 + "1", "1/0", "y[" + "9" * 50 + "]", "lambda: 1", "theta[-1]", "y[0] if t else 1", "exp(exp(exp(1000)))", "\0", "\ud800",
         "t\n", "0x10", "1_000", "True", "1e400", "1j", "'a'*10**9", "[y[0] for y in y]", "sin", "sin()", "sin(1, 2)", "+".join(["y[0]"] * 400)]
numbers = st.one_of(st.integers(-3, 3), st.integers(), st.floats(), st.sampled_from([10**400, 1e308, 5e-324, -0.0, 2**53 + 1]))
leaves = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=10), st.sampled_from(TEXTS),
                   st.sampled_from(["NaN", "sumsq", "linear", "final", "running", "sum", "fixed", "tolerance", "refnode.problem"]))
values = st.recursive(leaves, lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["expr", "kind", "y0", "data", "a/b~", ""]), inner, max_size=3)), max_leaves=8)


def places(content, path=()):
    """Every path into nested lists and dicts."""
    yield path
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


@st.composite
def restructured(draw):
    """A problem or an answer with values replaced, deleted, repeated, renamed or wrapped."""
    content = copy.deepcopy(draw(st.sampled_from(originals())))
    if draw(st.booleans()):
        content.pop("sha256", None)
    for _ in range(draw(st.integers(1, 4))):
        *path, last = draw(st.sampled_from([place for place in places(content) if place] or [("format",)]))
        inner = content
        for key in path:
            inner = inner[key]
        kind = draw(st.sampled_from(["replace", "nudge", "nudge", "delete", "rename", "wrap", "repeat"]))
        if kind == "nudge" and type(inner[last]) in (int, float):
            inner[last] = draw(numbers)
        elif kind == "delete":
            del inner[last]
        elif kind == "rename" and isinstance(inner, dict):
            inner[draw(st.sampled_from(["y0", "expr", "kind", "__class__", "x" * 200, "\x1b[31m"]))] = inner.pop(last)
        elif kind == "repeat" and isinstance(inner, list):
            inner[last:last] = [inner[last]] * draw(st.sampled_from([1, 3, 2000]))
        elif kind == "wrap":
            for _ in range(draw(st.sampled_from([1, 5, 60]))):
                inner[last] = [inner[last]]
        else:
            inner[last] = draw(values)
        if not content:
            break
    return json.dumps(content).encode()             # NaN and the like as Python writes them, which is not JSON


test_json_structure, test_json_structure_many = fuzz(restructured())


# --- the members of an archive --------------------------------------------------------------------

ARRAYS = [np.zeros((0, 3)), np.zeros((3, 0)), np.array(1.0), np.array([1, 2**62]), np.array([np.nan, 1.0]), np.array(["a", "\U0010ffff"]),
          np.array([b"a"]), np.array([1j]), np.array([True]), np.empty(0, bool), np.array([None, {}], dtype=object), np.ones((2, 2, 2)),
          np.zeros(3, dtype=[("a", "f8")]), np.array(["2020-01-01"], dtype="M8[D]"), np.float32([1.5]), np.float16([1.5]), np.ones(3, ">f8"),
          np.asfortranarray(np.ones((2, 3))), np.zeros((1,) * 9), np.zeros((20, 20_000), np.int8), np.array("refnode.problem"), np.array(1)]
NAMES = ["y0", "theta", "format", "version", "loss/data", "loss/data/0", "rhs/expr", "rhs/expr/1", "a" * 300, "../../etc/x", "y0/", "rhs", "0", ""]


@st.composite
def rebuilt(draw):
    """An archive with arrays replaced, added, removed or named anew, packed in some way."""
    arrays = dict(arrays_from(draw(st.sampled_from(originals()))))
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from([*arrays, *NAMES]))
        if draw(st.booleans()):
            arrays[name] = draw(st.sampled_from(ARRAYS))
        else:
            arrays.pop(name, None)
    buffer = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", member.getvalue())
    return buffer.getvalue()


HEADERS = ["'<f8'", "'|O'", "'<f8', 'fortran_order': True", "(10**12,)", "(1000000000000,)", "(-1,)", "(3,) * 9", "()", "(0, 1000000000)",
           "[('a', '<f8')]", "'<U999999'", "'<U0'", "__import__('os')", "(" * 500, "'<f3'", "'|b1'", "'<i8'", "(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)"]


@st.composite
def with_headers(draw):
    """An archive whose headers claim something else than there is; also lengths and magic numbers."""
    arrays = arrays_from(draw(st.sampled_from(originals())))
    changed = draw(st.sampled_from(list(arrays)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array)
            content = member.getvalue()
            if name == changed:
                text = content[10:10 + int.from_bytes(content[8:10], "little")].decode()
                new = draw(st.sampled_from(HEADERS))
                old = draw(st.sampled_from([text[10:text.index(",")].strip(), text[text.index("(", 10):text.index(")") + 1]]))
                header = text.replace(old, new).encode()[:60_000]
                content = content[:8] + len(header).to_bytes(2, "little") + header + content[10 + len(text):]
                content = draw(st.one_of(st.just(content), edited(content)))
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


test_npz_members, test_npz_members_many = fuzz(st.one_of(rebuilt(), with_headers()))


# --- large ones -----------------------------------------------------------------------------------

LARGE = {
    "empty": b"", "space": b" " * 10**6, "deep": b"[" * 10**5, "deep objects": b'{"a":' * 10**5, "a list": b"[" + b"0," * 10**6 + b"0]",
    "lists": b"[" + b"[]," * 19_000 + b"0]", "numbers": b'{"format": "refnode.problem", "version": 1, "y0": [' + b"1.25," * 10**6 + b"1]}",
    "a string": b'"' + b"a" * 10**7 + b'"', "quotes": b'"\\"' * 5 * 10**6, "backslashes": b'"' + b"\\" * 10**7, "a number": b"1" * 10**7,
    "keys": b"{" + b",".join(b'"k%d":0' % k for k in range(10**6)) + b"}", "minus": b"-" * 10**7, "open strings": b'"a' * 5 * 10**6,
    "the answer": b'{"format": "refnode.answer", "version": 1, "problem_sha256": "' + b"0" * 64 + b'", "grad": {"theta": [' + b"0.1," * 10**6 + b'"NaN"]}}',
    "strings": b'{"format": "refnode.answer", "version": 1, "problem_sha256": "' + b"0" * 64 + b'", "y": [[' + b'"NaN",' * 10**6 + b"0]]}",
    "rows": b'{"format": "refnode.answer", "version": 1, "problem_sha256": "' + b"0" * 64 + b'", "y": [' + b"[1]," * 19_000 + b"[1]]}",
    "expressions": b'{"format": "refnode.problem", "version": 1, "t0": 0, "t1": 1, "theta": [], "loss": {"kind": "sumsq", "data": null}, "y0": ['
                   + b"1," * 60 + b'1], "rhs": {"expr": [' + b'"' + b"+".join([b"y[0]**2"] * 73) + b'",' * 1 + b'"' + b'","'.join(
                       [b"+".join([b"y[0]**2"] * 73)] * 60) + b'"]}}',
    "a large file": b"[" + b"0" * (16 * 2**20) + b"]",
}


@pytest.mark.parametrize("name", LARGE)
def test_large_files(name):
    survives(LARGE[name])


def test_bombs():
    """Archives that unpack to far more than they are."""
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1000,)})
            archive.writestr("y0.npy", header.getvalue() + bytes(5 * 10**7))
        survives(buffer.getvalue())


def test_the_originals_are_accepted():
    """Or the mutants would show nothing."""
    for suffix in ("json", "npz"):
        for content in files(suffix):
            read = answer_from if b"problem_sha256" in content else (lambda content, source: read_problem_bytes(content))
            assert read(content, "file") is not None


@pytest.mark.slow
def test_count():
    """Last: ten thousand files and more were read, some accepted, and no file took long."""
    print(COUNTS)
    assert COUNTS["files"] >= 10_000 and COUNTS["accepted"] >= 200
