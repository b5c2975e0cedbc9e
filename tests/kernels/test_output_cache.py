"""Memory of large results, which is kept for the next one: reused, bounded, never shared, and returned."""

import copy
import gc
import os
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
from reference import assert_same_bits

import xent
from xent._calls import outputs
from xent._core import memory

LIMIT = 64 << 20
SHAPE = (300, 1000)
X = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
LABELS = np.arange(300)
PROBA = np.abs(np.sin(X))
BINS = np.arange(60_000) % 7

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
needs_linux = pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="this is not Linux")


@pytest.fixture(autouse=True)
def _nothing_kept():
    memory.release_kept()
    memory.set_limit(LIMIT)
    yield
    memory.release_kept()
    memory.set_limit(outputs._cache_size())


def ignore_every_row():
    return xent.cross_entropy(X, LABELS, sample_weight=np.zeros(300), return_grad=True)[1]


# Functions with a large result, which is new.
CALLS = {
    "softmax": lambda: xent.softmax(X),
    "softmax, one thread": lambda: xent.softmax(X, n_threads=1),
    "softmax, first axis": lambda: xent.softmax(X, axis=0),
    "softmax, Fortran order": lambda: xent.softmax(np.asfortranarray(X)),
    "softmax, float16": lambda: xent.softmax(X.astype(np.float16)),
    "log_softmax": lambda: xent.log_softmax(X),
    "logsumexp": lambda: xent.logsumexp(PROBA.reshape(-1, 5)),
    "logsumexp, factors": lambda: xent.logsumexp(PROBA.reshape(-1, 5), b=X.reshape(-1, 5)),
    "cross_entropy, gradient": lambda: xent.cross_entropy(X, LABELS, return_grad=True)[1],
    "cross_entropy, gradient, options": lambda: xent.cross_entropy(X, PROBA, where=X < 1, return_grad=True)[1],
    "cross_entropy, gradient, ignored": lambda: xent.cross_entropy(X, LABELS, ignore_index=5, return_grad=True)[1],
    "cross_entropy, gradient, all ignored": ignore_every_row,
    "cross_entropy, none": lambda: xent.cross_entropy(PROBA.reshape(-1, 5), BINS % 5, reduction="none"),
    "cross_entropy, none, options": lambda: xent.cross_entropy(
        PROBA.reshape(-1, 5), BINS % 5, z_loss=0.1, reduction="none"
    ),
    "binary, gradient": lambda: xent.binary_cross_entropy_with_logits(X, PROBA, return_grad=True)[1],
    "binary, none": lambda: xent.binary_cross_entropy_with_logits(X, PROBA, reduction="none"),
    "binary of probabilities": lambda: xent.binary_cross_entropy(PROBA, PROBA, return_grad=True)[1],
}
each_call = pytest.mark.parametrize("call", list(CALLS.values()), ids=list(CALLS))


def address(array):
    return array.ctypes.data


# --- what is kept ----------------------------------------------------------------------------------------------------


@each_call
def test_memory_is_used_again(call):
    """And nothing of what it held is in the next result."""
    result = call()
    expected, place, size = result.copy("K"), address(result), result.nbytes
    result.view(np.uint8).fill(255) if result.flags.c_contiguous else result.fill(np.nan)
    del result
    assert memory.count_kept_bytes() == size
    again = call()
    assert memory.count_kept_bytes() == 0
    assert address(again) == place
    assert_same_bits(again, expected)


@each_call
def test_results_own_their_memory(call):
    """As any other array does, and apart from each other."""
    one, other = call(), call()
    for result in (one, other):
        array = result if result.base is None else result.base      # some results are views
        assert type(array) is np.ndarray
        assert array.flags.owndata
        assert array.flags.writeable
        assert address(array) % 64 == 0
    assert not np.may_share_memory(one, other)


def test_layout():
    for x in (X, X.T, X.reshape(30, 10, 1000).transpose(1, 2, 0), np.broadcast_to(X[0], SHAPE)):
        assert xent.softmax(x, axis=0).strides == np.empty_like(x).strides


def test_large_results_start_a_huge_page():
    assert address(xent.softmax(np.zeros((1000, 1000), np.float32))) % (1 << 21) == 0


def test_small_results_are_not_kept():
    result = xent.softmax(X[:32])
    assert result.nbytes < 1 << 17
    del result
    assert memory.count_kept_bytes() == 0


def test_only_memory_of_about_the_size_is_used():
    result = xent.softmax(X)
    place = address(result)
    del result
    for rows in (301, 149):
        other = xent.softmax(np.ones((rows, 1000), np.float32))
        assert address(other) != place
        assert memory.count_kept_bytes() == X.nbytes
        memory.set_limit(0)     # so that the other is not kept
        del other
        memory.set_limit(LIMIT)
    assert address(xent.softmax(X[:150])) == place


def test_the_latest_four_are_kept():
    results = [xent.softmax(X) for _ in range(6)]
    places = [address(result) for result in results]
    while results:
        del results[0]
    assert memory.count_kept_bytes() == 4 * X.nbytes
    again = [xent.softmax(X) for _ in range(4)]
    assert [address(result) for result in again] == places[:1:-1]


def test_at_most_the_limit_is_kept():
    memory.set_limit(int(2.5 * X.nbytes))
    results = [xent.softmax(X) for _ in range(4)]
    places = {address(result) for result in results[2:]}
    while results:
        del results[0]
    assert memory.count_kept_bytes() == 2 * X.nbytes
    assert {address(result) for result in [xent.softmax(X), xent.softmax(X)]} == places
    larger = xent.softmax(np.concatenate([X, X, X]))
    del larger
    assert memory.count_kept_bytes() == 2 * X.nbytes


def test_arrays_of_the_user_are_not_kept():
    result = xent.softmax(X)
    others = [np.empty_like(X), result.copy(), result + 1, copy.deepcopy(result), pickle.loads(pickle.dumps(result))]
    del others
    assert memory.count_kept_bytes() == 0
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1000\)"):
        xent.cross_entropy(X, LABELS + 900, return_grad=True)
    memory.release_kept()
    other = np.empty_like(X)
    del other
    assert memory.count_kept_bytes() == 0


# --- the handler -----------------------------------------------------------------------------------------------------


def test_resize():
    result = xent.softmax(X)
    expected = result.flatten()
    for n in (400_000, 200_000, 250_000, 10, 0, 20):
        result.resize(n, refcheck=False)
        expected.resize(n, refcheck=False)
        np.testing.assert_array_equal(result, expected)
    with pytest.raises(MemoryError):
        result.resize(1 << 58, refcheck=False)
    np.testing.assert_array_equal(result, expected)
    del result
    assert memory.count_kept_bytes() <= LIMIT


def test_tracemalloc_counts_results_and_not_what_is_kept():
    xent.softmax(X)
    tracemalloc.start()
    try:
        result = xent.softmax(X)
        assert X.nbytes <= tracemalloc.get_traced_memory()[0] < X.nbytes + 10_000
        del result
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    assert memory.count_kept_bytes() == X.nbytes


USERS_HANDLER = """
import ctypes
import numpy as np
import xent
from xent._core import memory

api, new = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
api.restype, api.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
multiarray = getattr(np, "_core", None) or np.core
table = (ctypes.c_void_p * 310).from_address(api(multiarray._multiarray_umath._ARRAY_API, None))
set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[304])

# The functions of NumPy's own handler under another name, which counts as one of the user.
default = ctypes.cast(table[306], ctypes.POINTER(ctypes.py_object))[0]
own = ctypes.create_string_buffer(ctypes.string_at(api(default, b"mem_handler"), 128 + 5 * 8))
own[0] = b"u"
before = set_handler(new(ctypes.addressof(own), b"mem_handler", None))
x = np.ones((1000, 1000))
result = xent.softmax(x)
print(multiarray.multiarray.get_handler_name(result) == multiarray.multiarray.get_handler_name(x) != "xent")
del result
print(memory.count_kept_bytes())
set_handler(before)
print(multiarray.multiarray.get_handler_name(xent.softmax(x)))
"""


def test_a_handler_of_the_user_is_used_for_results_too(python):
    assert python(USERS_HANDLER).split() == ["True", "0", "xent"]


# --- settings --------------------------------------------------------------------------------------------------------

KEPT = """
import numpy as np
import xent
from xent._core import memory
xent.softmax(np.zeros((1000, 1000), np.float32))
print(memory.count_kept_bytes())
"""


@pytest.mark.parametrize("text", ["", "0", "3", "4", "9" * 30])
def test_environment(text, python):
    """It is a number of MiB, of which the result needs 3.8."""
    assert python(KEPT, XENT_OUTPUT_CACHE=text) == ("0" if text in ("0", "3") else "4000000")


@pytest.mark.parametrize("text", ["-1", "1.5", "64M", "off"])
def test_bad_environment(text, python):
    message = f"ImportError: XENT_OUTPUT_CACHE is {text!r}; it must be a whole number of MiB, 0 or more"
    assert python("import xent", fails=True, XENT_OUTPUT_CACHE=text).endswith(message)


# --- threads, processes, the end -------------------------------------------------------------------------------------


def test_many_threads():
    """Of which each has several results at a time, of several sizes; nobody writes to those of another."""
    memory.set_limit(3 * X.nbytes)
    inputs = [X[:n] for n in (300, 200, 120, 60)]
    expected = [xent.softmax(x, n_threads=1) for x in inputs]
    right = []

    def work(thread):
        held = []
        for i in range(60):
            which = (thread + i) % 4
            held.append((which, xent.softmax(inputs[which], n_threads=1 + i % 2)))
            if len(held) > i % 5:
                right.extend(np.array_equal(result, expected[which]) for which, result in held)
                for _, result in held:
                    result.fill(thread)
                held.clear()
        right.extend(np.array_equal(result, expected[which]) for which, result in held)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert len(right) == 8 * 60
    assert all(right)
    assert memory.count_kept_bytes() <= 3 * X.nbytes


FORK = """
import os, warnings
import numpy as np
import xent
from xent._core import memory
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
x = np.random.default_rng(0).normal(size=(300, 4000))
held, expected = xent.softmax(x), xent.softmax(x).copy()
kept = memory.count_kept_bytes()
child = os.fork()
if child == 0:
    right = memory.count_kept_bytes() == 0 and (held == expected).all()
    del held
    right = right and memory.count_kept_bytes() == x.nbytes
    os._exit(0 if right and (xent.softmax(x) == expected).all() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(kept == memory.count_kept_bytes() == x.nbytes, (held == expected).all(), (xent.softmax(x) == expected).all())
"""


@needs_fork
def test_fork(python):
    """The child keeps nothing of the parent's; arrays of the parent live on in both."""
    assert python(FORK) == "True True True"


OUTLIVING = """
import atexit, gc, sys
import numpy as np
import xent
x = np.random.default_rng(0).normal(size=(300, 4000))
result, expected = xent.softmax(x), xent.softmax(x).copy()
xent.softmax(x)
class Last:
    def __init__(self, array):
        self.array = array
    def __del__(self, expected=expected, print=print):
        print((self.array == expected).all())
last = Last(xent.softmax(x))
atexit.register(lambda last: None, Last(xent.softmax(x)))
for name in [name for name in sys.modules if name.startswith("xent")]:
    del sys.modules[name]
del xent
gc.collect()
print((result == expected).all())
result.resize((100, 100), refcheck=False)
del result
"""


def test_results_outlive_the_module_and_the_interpreter(python):
    assert python(OUTLIVING).split() == ["True", "True", "True"]


RETURNED = """
import numpy as np
import xent
from xent._core import memory
def count(name):
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(name + ":")) / 1024
x = np.zeros((512, 32000), np.float32)
result = xent.softmax(x)
size, with_result = result.nbytes >> 20, count("Rss")
del result
print(count("Rss") > with_result - 5, count("LazyFree") > size - 5)
results = [xent.softmax(x) for _ in range(6)]
del results
print(count("Rss") < with_result + 3 * size + 5)
memory.release_kept()
print(count("Rss") < with_result - size + 5)
"""


@needs_linux
def test_memory_goes_back_to_the_system(python):
    """What is kept counts as this process's until the system takes it; what is not is returned at once."""
    assert python(RETURNED).split() == ["True"] * 4
