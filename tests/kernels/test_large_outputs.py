"""Outputs that are too large for the cache, whose rows are sent around it while others are computed: the same bits as
those of a few rows at a time, whatever the layout, the options and the threads."""

import numpy as np
import pytest
from reference import WRITEABLE_LAYOUTS, assert_same_bits

import xent

LARGE = 1 << 24     # bytes
FUNCTIONS = {
    "softmax": lambda x, target, out, **options: xent.softmax(x, out=out, n_threads=options["n_threads"]),
    "log_softmax": lambda x, target, out, **options: xent.log_softmax(x, out=out, n_threads=options["n_threads"]),
    "cross_entropy": lambda x, target, out, **options: xent.cross_entropy(
        x, target, grad_out=out, reduction="sum", **options
    )[1],
}


def random_case(rng, dtype):
    """Logits, a target and options; those of rows as functions of a slice."""
    n = int(rng.choice([1536, 1999, 6000, 20_001, 32_000, 64_000]))
    rows = int(LARGE // (n * np.dtype(dtype).itemsize) * rng.uniform(1.05, 1.5)) + 2
    x = (3 * rng.standard_normal((rows, n), np.float32)).astype(dtype)
    labels = rng.integers(n, size=rows)
    labels[rng.random(rows) < 0.1] = -100
    index, mass, weight = rng.integers(n, size=(rows, 3)), rng.random((rows, 3)), rng.random(rows)
    target = [lambda k: labels[k], lambda k: np.abs(x[k]), lambda k: (index[k], mass[k])][rng.integers(3)]
    of_rows = {"sample_weight": lambda k: weight[k], "where": lambda k: x[k] < 6}
    plain = {"label_smoothing": 0.1, "logit_scale": 1.5, "softcap": 20.0, "z_loss": 1e-3, "class_weight": rng.random(n)}
    names = [name for name in (*of_rows, *plain) if rng.random() < 0.2]

    def options(k):
        return {name: of_rows[name](k) if name in of_rows else plain[name] for name in names}

    return x, target, options


@pytest.mark.deep
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("layout", WRITEABLE_LAYOUTS)
def test_outputs_around_the_cache(layout, function, dtype):
    rng = np.random.default_rng(list(WRITEABLE_LAYOUTS).index(layout))
    call = FUNCTIONS[function]
    for n_threads in (1, 2, 2, 3):
        x, target, options = random_case(rng, dtype)
        shift = int(rng.integers(8))
        out = np.full(x.size + 8, np.nan, dtype)[shift : shift + x.size].reshape(x.shape)
        everything = slice(None)
        call(WRITEABLE_LAYOUTS[layout](x), target(everything), out, n_threads=n_threads, **options(everything))
        for start in range(0, len(x), 5):
            k = slice(start, start + 5)
            assert_same_bits(out[k], call(x[k], target(k), np.empty(x[k].shape, dtype), n_threads=1, **options(k)))
