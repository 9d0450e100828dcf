"""The registry of demonstrations, and the command that runs them."""
import inspect

import pytest

from refnode import demos
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
