"""Which modules `import xent` loads, and which names it has."""

import pickle

import pytest

import xent

HEAVY = """
asyncio bz2 concurrent.futures copy ctypes dataclasses email hashlib hmac importlib.resources importlib.util inspect
json logging lzma multiprocessing pathlib pickle random secrets shutil subprocess tempfile threading unittest urllib
zipfile zlib matplotlib pandas scipy sklearn skl2onnx tqdm dask xent._fit xent._estimator
xent.blocks xent.boosting xent.cli xent.datasets xent.logistic xent.logistic_cv xent.onnx xent.plots xent.sklearn
"""


def test_nothing_heavy_beyond_numpy(python):
    script = f"""
import sys, numpy
before = set(sys.modules)
import xent
print(*sorted((set(sys.modules) - before) & set({HEAVY.split()!r})))
"""
    assert python(script) == ""


def test_the_kernels_of_one_set_beside_the_baseline(python):
    script = 'import sys, xent; print(len([name for name in sys.modules if name.startswith("xent._kernels_")]))'
    assert python(script, XENT_ISA=xent.isa()) == str(int(xent.isa() != "baseline"))
    assert python(script, XENT_ISA="baseline") == "0"


def test_everything_public_is_there(python):
    """As attributes, in dir, and by a star import, before and after they are first used."""
    assert set(xent.__all__) <= set(dir(xent))
    names = ", ".join(map(repr, xent.__all__))
    assert python(f"import xent; print({{{names}}} - set(dir(xent)))") == "set()"
    assert python(f"from xent import *; print({{{names}}} - set(globals()))") == "set()"
    script = "import xent; print(xent.datasets.__name__, xent.logistic.__name__, xent.blocks.__name__)"
    assert python(script) == "xent.datasets xent.logistic xent.blocks"
    script = "import xent; print(xent.LogisticRegression.__module__, xent.Blocks.__module__)"
    assert python(script) == "xent.logistic xent.blocks"


def test_what_is_not_there():
    with pytest.raises(AttributeError, match=r"^module 'xent' has no attribute 'log_los'$"):
        _ = xent.log_los
    with pytest.raises(ImportError, match="cannot import name 'log_los' from 'xent'"):
        from xent import log_los  # noqa: F401
    assert not hasattr(xent, "__wrapped__")


@pytest.mark.parametrize("name", ["boosting", "dask", "onnx", "sklearn", "torch"])
def test_modules_to_import_first(python, name):
    script = f"import xent\ntry: xent.{name}\nexcept AttributeError as error: print(error)"
    assert python(script) == f"module 'xent' has no attribute '{name}': import xent.{name} first"


def test_pickles_go_to_fresh_processes(python):
    model = xent.LogisticRegression().fit([[0.0], [1.0], [2.0]], [0, 1, 1])
    values = pickle.dumps((model, xent.LogisticRegression, xent.Blocks, xent.log_loss))
    script = f"import pickle; print(*(value.__module__ for value in pickle.loads({values!r})))"
    assert python(script) == "xent.logistic xent.logistic xent.blocks xent.evaluation"
