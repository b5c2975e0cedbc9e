"""Settings of all tests, and a fixture that runs a script in a new interpreter."""

import os
import subprocess
import sys

import hypothesis
import pytest

hypothesis.settings.register_profile("usual", max_examples=25, deadline=None, derandomize=True, database=None)
# Deep runs draw new examples each time, except in CI, where a failure must come from the change at hand.
hypothesis.settings.register_profile(
    "deep", max_examples=500, deadline=None, derandomize=bool(os.environ.get("CI")), database=None
)


def is_deep(config):
    return config.getoption("markexpr") == "deep"


def pytest_configure(config):
    hypothesis.settings.load_profile("deep" if is_deep(config) else "usual")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Deep runs include the property tests, with more examples."""
    for item in items:
        if is_deep(config) and getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("deep")


@pytest.fixture(autouse=True)
def _always_use_threads(monkeypatch):
    """Calls use their threads however busy the machine is; else they would work alone for a while."""
    monkeypatch.setattr("xent._calls.threads.LONGEST_PAUSE", 0.0)


@pytest.fixture
def python(tmp_path):
    """Run a script in a new interpreter, with these environment variables, and return what it prints."""

    def run(script, *, fails=False, **environment):
        path = tmp_path / "script.py"
        path.write_text(script)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("XENT_")}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(path)],
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode != 0) == fails, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return (done.stderr if fails else done.stdout).strip()

    return run
