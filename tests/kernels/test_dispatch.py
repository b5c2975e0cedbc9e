"""Which instruction set's kernels run."""

import os
from importlib.util import find_spec

import pytest

import xent
from xent import _kernels
from xent._calls import dispatch

SETS = ["baseline", "avx2", "avx512"]
SCRIPT = """
import numpy as np
import xent
x = np.random.default_rng(0).normal(size=(20, 37), scale=5)
print(xent.isa(), xent.softmax(x).sum().round(9), xent._calls.dispatch.kernels.__name__)
"""


def module(name):
    return "xent._kernels" if name == "baseline" else f"xent._kernels_{name}"


def usable():
    """The instruction sets that work on this CPU, slowest first."""
    return ["baseline", *(name for name in _kernels.cpu_sets() if find_spec(module(name)))]


def test_this_one():
    assert xent.isa() == (os.environ.get("XENT_ISA") or usable()[-1])
    assert dispatch.kernels.__name__ == module(xent.isa())


@pytest.mark.parametrize("name", SETS)
def test_forced(name, python):
    if name in usable():
        assert python(SCRIPT, XENT_ISA=name) == f"{name} 20.0 {module(name)}"
    else:
        assert python("import xent", fails=True, XENT_ISA=name).endswith(
            f"ImportError: XENT_ISA is '{name}', which this CPU or this build lacks; usable here: {', '.join(usable())}"
        )


def test_best_by_default(python):
    for environment in ({}, {"XENT_ISA": ""}):
        assert python("import xent; print(xent.isa())", **environment) == usable()[-1]


def test_unknown(python):
    for name in ("sse2", "AVX2", "avx2 "):
        assert python("import xent", fails=True, XENT_ISA=name).endswith(
            f"ImportError: XENT_ISA is {name!r}; it must be one of 'baseline', 'avx2', 'avx512'"
        )
