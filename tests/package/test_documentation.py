"""The examples in the README and the docstrings print what they show."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import xent

README = Path(__file__).parents[2] / "README.md"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PUBLIC = [getattr(xent, name) for name in xent.__all__ if inspect.isroutine(getattr(xent, name))]


def test_readme():
    result = doctest.testfile(str(README), module_relative=False, optionflags=OPTIONS, encoding="utf-8")
    assert result.failed == 0
    assert result.attempted >= 10


def test_readme_has_the_two_commands():
    text = README.read_text(encoding="utf-8")
    commands = re.findall(r"^ *(pip install .* && .*)$", text, re.MULTILINE)
    assert commands == ["pip install '.[demo]' && python -m xent", "pip install '.[test]' && pytest"]


MODULES = sorted(m.name for m in pkgutil.walk_packages(xent.__path__, "xent.") if m.name != "xent.__main__")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    if "dask" in name:
        pytest.importorskip("dask")
    if not name.startswith("xent._kernels"):
        result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
        assert result.failed == 0


@pytest.mark.parametrize("function", PUBLIC, ids=lambda f: f.__name__)
def test_public_functions_are_documented(function):
    text = inspect.getdoc(function)
    parameters = inspect.signature(function).parameters
    assert "Examples\n--------" in text
    assert "Parameters\n----------" in text or not parameters
    for parameter in parameters:
        assert re.search(rf"^(\w+, )*{parameter}(, \w+)* : ", text, re.MULTILINE), parameter


@pytest.mark.parametrize("name", ["README.md", "bench/README.md", "docs/scaling.md"])
def test_the_rows_of_a_table_have_the_columns_of_its_head(name):
    wanted = None
    for number, line in enumerate((README.parent / name).read_text(encoding="utf-8").splitlines(), 1):
        cells = re.sub(r"`[^`]*`", "", line).count("|") if line.startswith("|") else None
        wanted = cells if wanted is None or cells is None else wanted
        assert cells == wanted, f"{name}, line {number}: {line}"
