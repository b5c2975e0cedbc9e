"""Random numbers, and the same numbers in many places of memory, some of which end where memory ends."""

import ctypes
import math
import mmap
import sys

import numpy as np
from good_arguments import HALVES
from reference import LAYOUTS, WRITEABLE_LAYOUTS

FLOATS = [np.dtype(dtype) for dtype in (*HALVES, np.float32, np.float64)]
INTEGERS = [np.dtype(code) for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")]
PAGE = mmap.PAGESIZE
HAS_GUARDS = sys.platform != "win32"
STEPS = (1, 1, -1, 2, -3)       # between two elements, in a guarded array


def chance(rng, probability):
    return rng.random() < probability


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def guarded(array, at_end, step):
    """A copy that begins or ends at a page that must not be touched; and a function that asserts that nothing around
    it has been written."""
    size = max(1, (array.size - 1) * abs(step) + 1) * array.itemsize
    pages = -(-size // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for address in (first, first + (pages + 1) * PAGE):
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0):
            raise OSError("mprotect failed")
    inner = np.frombuffer(memory, np.uint8, pages * PAGE, PAGE)
    inner[:] = 0xA5
    begin = len(inner) - size if at_end else 0
    result = inner[begin : begin + size].view(array.dtype)[::step][: array.size].reshape(array.shape)
    result[...] = array
    before = inner.copy()

    def intact():
        now = result.copy()
        result[...] = array
        assert (inner == before).all(), "memory beside an array was written"
        result[...] = now

    return result, intact


def nothing():
    pass


def place(rng, array, writeable=False):
    """The array in another place, its layout and a function that asserts that nothing around it was written."""
    names = list(WRITEABLE_LAYOUTS if writeable else LAYOUTS)
    if HAS_GUARDS and chance(rng, 0.5):
        at_end, step = chance(rng, 0.7), pick(rng, STEPS)
        return *guarded(array, at_end, step), f"guarded {'end' if at_end else 'start'} {step}"
    name = pick(rng, [n for n in names if n != "memory map" or chance(rng, 0.1)])
    if array.ndim == 0 or (name == "big-endian" and array.dtype not in FLOATS[:1] + FLOATS[2:] + INTEGERS):
        name = "C"
    result = LAYOUTS[name](array)
    same = result.shape == array.shape and (not writeable or result.flags.writeable)
    return (result, nothing, name) if same else (array.copy(), nothing, "C")


# --- numbers ---------------------------------------------------------------------------------------------------------


def shape(rng, elements=20_000):
    """A shape of 1 to 4 axes, few or many classes last; sometimes empty."""
    classes = int(pick(rng, (1, 2, 3, 5, 10, 16, 17, 31, 33, 64, 65, 100, 129, 257, 1000, 2049, 4099, 9000)))
    if chance(rng, 0.4):
        classes = int(rng.integers(1, 80))
    if chance(rng, 0.02):
        classes = 0
    rows = int(pick(rng, (1, 2, 3, 7, 16, 33, 100, 500))) if chance(rng, 0.7) else int(rng.integers(1, 40))
    rows = max(1, min(rows, elements // max(1, classes)))
    if chance(rng, 0.02):
        rows = 0
    lead = [()] * 2 + [(rows,)] * 6 + [(rows // 3, 3), (1, rows), (rows // 4, 2, 2)]
    return (*pick(rng, lead), classes)


def logits(rng, size, dtype, specials=True):
    """Logits of some kind, with or without numbers that break formulas."""
    kind = int(rng.integers(6))
    x = rng.normal(size=size) * (1e-3, 1, 5, 30, 1, 3)[kind]
    if kind == 4:
        x = x + pick(rng, (1e4, -1e4, 300.0, -90.0))
    if kind == 5:
        x = np.round(x)
    if chance(rng, 0.2) and x.size and x.ndim:
        x[..., 0] += pick(rng, (10, 60, 200))
    with np.errstate(all="ignore"):
        x = np.asarray(x, dtype)
        if specials and chance(rng, 0.35) and x.size:
            info = _limits(x.dtype)
            values = [np.nan, np.inf, -np.inf, -np.inf, 0.0, -0.0, *info]
            chosen = [pick(rng, values) for _ in range(int(rng.integers(1, 4)))]
            where = rng.random(x.shape) < pick(rng, (0.01, 0.1, 0.9))
            x[where] = np.asarray(chosen, x.dtype)[rng.integers(len(chosen), size=int(where.sum()))]
    return x


def _limits(dtype):
    """Huge numbers, and subnormal ones."""
    if dtype.itemsize == 2:
        return [6e4, -6e4, 1e-7] if dtype.kind == "f" else [3e38, -3e38, 1e-40]
    return [3e38, -3e38, 1e-45, 1e30] if dtype.itemsize == 4 else [1e300, -1e300, 5e-324, 1e40]


def weights(rng, size):
    """Weights >= 0, some of them 0; seldom extreme."""
    w = rng.integers(0, 5, size) / 2 if chance(rng, 0.5) else rng.random(size)
    if chance(rng, 0.1):
        w = w * pick(rng, (1e200, 1e-200, 1e-300, 1e30))
    dtype = pick(rng, (np.float64, np.float64, np.float32)) if np.max(w, initial=0) < 1e30 else np.float64
    return np.asarray(w).astype(dtype)


def broadcastable(rng, size):
    """A shape that broadcasts to another one."""
    if chance(rng, 0.6):
        return tuple(size)
    kept = size[int(rng.integers(len(size) + 1)) :]
    return tuple(1 if chance(rng, 0.3) else n for n in kept)


def element_count(size):
    return math.prod(size)
