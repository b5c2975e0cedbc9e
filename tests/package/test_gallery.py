"""Every example of the gallery runs, without a screen."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import xent

SCRIPTS = sorted(Path(__file__).parents[2].glob("docs/gallery/plot_*.py"))


def find_missing(script):
    """Libraries that a script imports and that are not installed."""
    nodes = ast.walk(ast.parse(script.read_text("utf-8")))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    nodes = ast.walk(ast.parse(script.read_text("utf-8")))
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in names}
    return sorted(name for name in tops if importlib.util.find_spec(name) is None)


def test_there_are_examples():
    assert len(SCRIPTS) >= 7


@pytest.mark.deep
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_example(script, tmp_path):
    missing = find_missing(script)
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    path = os.pathsep.join([str(Path(xent.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", str(script)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
