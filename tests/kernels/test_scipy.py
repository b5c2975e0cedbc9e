"""SciPy's own tests of logsumexp, softmax and log_softmax, as installed with it, run on the functions of xent."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

scipy = pytest.importorskip("scipy", minversion="1.16")  # the first with tests for all three and xp_capabilities_table

HERE = Path(scipy.__file__).parent
TESTS = HERE / "special" / "tests" / "test_logsumexp.py"
PLUGIN = """
import numpy as np
import pytest
import scipy.special
from scipy._lib._array_api import xp_capabilities_table

import xent

calls = 0


def call(function, *arrays, **options):
    global calls
    calls += 1
    if any(np.iscomplexobj(array) for array in [*arrays, options.get("b")]):
        with pytest.raises(TypeError, match="real numbers"):
            function(*arrays, **options)
        pytest.skip("complex numbers")
    return function(*arrays, **options)


def logsumexp(a, axis=None, b=None, keepdims=False, return_sign=False):
    return call(xent.logsumexp, a, axis=axis, b=b, keepdims=keepdims, return_sign=return_sign)


def softmax(x, axis=None):
    return call(xent.softmax, x, axis=axis)


def log_softmax(x, axis=None):
    return call(xent.log_softmax, x, axis=axis)


for shim in (logsumexp, softmax, log_softmax):
    xp_capabilities_table[shim] = xp_capabilities_table[getattr(scipy.special, shim.__name__)]
    setattr(scipy.special, shim.__name__, shim)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    before = calls
    result = yield
    if calls == before:
        pytest.skip("no call")
    return result
"""
# What the plugin skips, by the reason that it gives. Other array libraries do not come up without SCIPY_ARRAY_API.
LEFT_OUT = {
    "complex numbers": "xent takes real numbers only, and was seen to say so in a TypeError",
    "no call": "a test of none of the three functions, but of SciPy's internal _wrap_radians",
}
# How many tests pass at least; a few fewer than with SciPy 1.16 and 1.17.
PASSED = {"TestLogSumExp": 36, "TestSoftmax": 4, "TestLogSoftmax": 10}
SETTINGS = {"SCIPY_ARRAY_API", "PYTEST_ADDOPTS"}


@pytest.mark.skipif(not (TESTS.exists() and (HERE / "conftest.py").exists()), reason="SciPy is here without its tests")
def test_scipy_on_xent(tmp_path):
    """In a process and with settings of its own, for the tests import what the plugin has replaced by then."""
    (tmp_path / "xent_as_scipy.py").write_text(PLUGIN)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    report = tmp_path / "report.xml"
    options = ["-q", "-c", "pytest.ini", "-p", "no:cacheprovider", "-p", "xent_as_scipy", f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(TESTS)],
        env={name: value for name, value in os.environ.items() if name not in SETTINGS},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr

    passed, others = Counter(), Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        if len(case) == 0:
            passed[case.get("classname").rpartition(".")[2]] += 1
        for child in case.findall("*"):
            others[child.get("message") if child.tag == "skipped" else child.tag] += 1
    print(f"\nSciPy {scipy.__version__}: {passed.total()} passed ({dict(passed)})")
    for reason, n in others.items():
        print(f"{n} {reason}: {LEFT_OUT.get(reason, 'not expected')}")
    assert done.returncode == 0, done.stdout
    assert others.keys() <= LEFT_OUT.keys()
    assert all(passed[name] >= n for name, n in PASSED.items()), passed
