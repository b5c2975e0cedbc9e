"""The examples of the README, of docs/ and of the docstrings do what they say; links lead somewhere."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import xent

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
REPOSITORY = ("https://github.com/xent-numpy/xent/blob/main/", "https://raw.githubusercontent.com/xent-numpy/xent/main/")
SOURCES = (".py", ".pyx", ".pxd", ".pxi", ".h")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NEEDS = {       # to run the examples of a page
    "docs/boosting.md": ["xgboost", "lightgbm", "sklearn"],
    "docs/csv.md": ["pandas", "polars", "pyarrow", "sklearn"],
    "docs/logistic-regression.md": ["sklearn"],
    "docs/onnx.md": ["skl2onnx", "onnxruntime", "pandas"],
    "docs/torch.md": ["torch"],
}
PUBLIC = [getattr(xent, name) for name in xent.__all__ if inspect.isroutine(getattr(xent, name))]


@pytest.mark.parametrize("page", PAGES)
def test_page(page):
    for module in NEEDS.get(page, []):
        pytest.importorskip(module)
    result = doctest.testfile(str(ROOT / page), module_relative=False, optionflags=OPTIONS, encoding="utf-8")
    assert result.failed == 0
    assert page != "README.md" or result.attempted >= 10


def test_readme_has_the_two_commands():
    text = README.read_text(encoding="utf-8")
    commands = re.findall(r"^ *(pip install .* && .*)$", text, re.MULTILINE)
    assert commands == ["pip install '.[demo]' && python -m xent", "pip install '.[test]' && pytest"]


MODULES = sorted(m.name for m in pkgutil.walk_packages(xent.__path__, "xent.") if m.name != "xent.__main__")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    if "dask" in name:
        pytest.importorskip("distributed")      # not "dask": without Dask, that finds the folder tests/dask
    if name == "xent.onnx":
        pytest.importorskip("skl2onnx")
    if name.startswith("xent.torch"):
        pytest.importorskip("torch")
    if name.startswith("xent.sklearn"):
        pytest.importorskip("sklearn")
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


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(path):
    """Those of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def links(page):
    """Where the links of a page lead: a file, or None for one elsewhere on the web, and the anchor."""
    text = without_code((ROOT / page).read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)]+)\)|^\[[^\]]+\]: (\S+)$", text, re.MULTILINE):
        address, _, anchor = "".join(link).partition("#")
        own = next((prefix for prefix in REPOSITORY if address.startswith(prefix)), None)
        if own:
            yield address, ROOT / address.removeprefix(own), anchor
        elif address.startswith(("https:", "mailto:")):
            yield address, None, anchor
        else:
            yield address, (ROOT / page).parent / address if address else ROOT / page, anchor


@pytest.mark.parametrize("page", PAGES)
def test_links_into_the_repository_lead_somewhere(page):
    for address, target, anchor in links(page):
        assert target is None or target.exists(), address
        assert not (target and anchor) or anchor in anchors(target), f"{address}#{anchor}"


def test_links_of_the_readme_work_where_it_is_shown_alone():
    """On the page of the package index, which has no other file of the repository; and none is left undefined."""
    assert [address for address, _, _ in links("README.md") if not address.startswith("https:")] == []
    text = without_code(README.read_text(encoding="utf-8"))
    defined = re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE)
    assert sorted(set(re.findall(r"\]\[([^\]]+)\]", text))) == sorted(defined)


def test_the_version_of_the_citation():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f'\nversion: "{xent.__version__}"\n' in text
    assert re.search(rf"^## {re.escape(xent.__version__)}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_the_rows_of_a_table_have_the_columns_of_its_head(page):
    wanted = None
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        cells = re.sub(r"`[^`]*`", "", line).count("|") if line.startswith("|") else None
        wanted = cells if wanted is None or cells is None else wanted
        assert cells == wanted, f"{page}, line {number}: {line}"


def test_what_the_architecture_page_names_is_there():
    folders = [ROOT / folder for folder in ("src", "tests", "bench")]
    files = [ROOT / "setup.py", *(path for f in folders for path in f.rglob("*") if path.suffix in SOURCES)]
    words = set(re.findall(r"\w+", "\n".join(path.read_text("utf-8") for path in files)))
    paths = " ".join(path.as_posix() for path in files) + " "
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"`([\w./]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    missing = [name for name in names if name.endswith(SOURCES) and "NAME" not in name and f"/{name} " not in paths]
    missing += [name for name in names if name.isidentifier() and name not in words]
    assert not missing
