"""The scripts of the gallery run."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import xent

SCRIPTS = sorted((Path(__file__).parents[2] / "docs" / "gallery").glob("plot_*.py"))
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def imports_of(script):
    """The packages that a script imports, by their first names."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


@pytest.mark.deep       # each takes seconds
@each_script
def test_script(script, tmp_path):
    missing = [name for name in imports_of(script) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    source = str(Path(xent.__file__).parents[1])
    environment = {**os.environ, "MPLBACKEND": "Agg", "MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": source}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@each_script
def test_a_script_has_a_title(script):
    """The first lines of its docstring, as sphinx-gallery needs it; and text in cells."""
    title, underline, *rest = ast.get_docstring(ast.parse(script.read_text("utf-8"))).splitlines()
    assert underline == "=" * len(title)
    assert any(rest)
    assert "\n# %%\n" in script.read_text("utf-8")
