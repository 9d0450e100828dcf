"""The registry of demonstrations, and the command that runs them."""
import inspect

import pytest

from refnode import demos
from refnode.blas_threads import functions_of, libraries
from refnode.cli import main
from refnode.errors import InvalidInputError


@pytest.mark.parametrize("name", demos.DEMOS)
def test_every_demonstration_has_the_common_form(name):
    parameters = inspect.signature(demos.DEMOS[name].function()).parameters
    common = {"output", "recipe", "seed", "progress", "method", "rtol", "atol"}
    assert common <= set(parameters) <= {*common, *demos.OPTIONS}
    assert len({"epochs", "iterations"} & set(parameters)) == 1
    assert parameters["recipe"].default == "discrete" and parameters["seed"].default == 0


def test_list_names_every_demonstration(capsys):
    assert main(["demo", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(demos.DEMOS)
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize("arguments, options, message", [
    (("circle", "x"), {}, "demo must be one of spiral, .*found 'circle'"),
    (("spiral", "x"), {"data": "y"}, "demo spiral takes no 'data'; beside output, recipe and seed it takes iterations"),
    (("spiral", "x", "magic"), {}, "sensitivity must be one of"),
    (("spiral", "/dev/null/x"), {}, "output /dev/null/x: Not a directory"),
])
def test_refused(arguments, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=message):
        demos.run(*arguments, **options)
    assert not list(tmp_path.iterdir())


def test_demonstrations_have_one_blas_thread(tmp_path, monkeypatch):
    """Within a run each OpenBLAS has one, also the one that compiled products call; afterwards as many as before, also after an error."""
    count = lambda: [get() for get, _ in libraries()]
    seen, before = [], count()

    def run_demo(output, recipe, seed, progress):
        seen.append(count())
        raise InvalidInputError("enough")
    monkeypatch.setattr(demos.Demo, "function", lambda demo: run_demo)
    for threads in (2, 1):
        for _, set_threads in libraries():
            set_threads(threads)
        with pytest.raises(InvalidInputError, match="enough"):
            demos.run("spiral", tmp_path)
        assert count() == [threads] * len(before) and seen.pop() == [1] * len(before)
    for (_, set_threads), threads in zip(libraries(), before):
        set_threads(threads)


def test_a_library_without_such_functions_is_left_alone(tmp_path):
    (tmp_path / "libopenblas.so").write_bytes(b"no library")
    assert functions_of(tmp_path / "libopenblas.so") == []
