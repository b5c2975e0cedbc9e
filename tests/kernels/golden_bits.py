"""Hashes of results, for each instruction set: a change that claims to change no result must not change them.

The hashes are the same for every layout and number of threads. `python tests/kernels/golden_bits.py` writes those of
the instruction set in use to golden_bits.json. Inputs are integers scaled by powers of two, so that they do not depend
on a random number generator; nothing here calls BLAS.
"""

import hashlib
import json
import math
import platform
from pathlib import Path

import ml_dtypes
import numpy as np

import xent

FILE = Path(__file__).with_suffix(".json")
LENGTHS = (1, 3, 10, 33, 64, 65, 100, 257, 1000, 4097, 20_000)
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LAYOUTS = {"C": np.ascontiguousarray, "Fortran": np.asfortranarray, "reversed": lambda x: x[:, ::-1].copy()[:, ::-1]}
THREADS = (1, 2)


def numbers(shape, seed, low=-6, high=6):
    """Multiples of 2**-12 in [low, high), spread by Weyl's sequence."""
    steps = np.arange(math.prod(shape), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 0x1B873593)
    steps ^= steps >> np.uint64(29)
    steps *= np.uint64(0xBF58476D1CE4E5B9)
    spread = (steps >> np.uint64(40)).astype(np.float64) / 2**24
    return (np.floor(spread * (high - low) * 4096) / 4096 + low).reshape(shape)


def options_of(n, rows):
    weight, mask = numbers((n,), 3, 0.5, 2), numbers((rows, n), 4) < 4
    mask[:, 0] = True
    samples = np.arange(rows) % 4 / 2
    yield "plain", {}
    yield "weights", {"class_weight": weight, "sample_weight": samples}
    yield "smoothing", {"label_smoothing": 0.125}
    yield "smoothing, mask, weights", {"label_smoothing": 0.25, "where": mask, "class_weight": weight}
    yield "softcap, mask", {"softcap": 5.0, "where": mask}
    yield "scale, z_loss", {"logit_scale": -1.75, "z_loss": 0.0625}
    yield "poly_epsilon, smoothing", {"poly_epsilon": 0.75, "label_smoothing": 0.125}
    yield "extreme weights", {"class_weight": np.where(np.arange(n) % 2, 1e300, 1e-300), "z_loss": 1e-3}


def targets_of(n, rows):
    labels = (np.arange(rows) * 7) % n
    labels[0] = -100
    yield "labels", labels
    yield "distribution", numbers((rows, n), 5, 0, 1)
    yield "sparse", ((np.arange(3 * rows).reshape(rows, 3) * 5) % n, numbers((rows, 3), 6, 0, 1))


def results(dtype, layout):
    """The name of a function and what it returns, over the lengths and options."""
    for n in LENGTHS:
        rows = 5 if n > 300 else 37
        x = LAYOUTS[layout](numbers((rows, n), n).astype(DTYPES[dtype]))
        for threads in THREADS:
            yield "logsumexp", xent.logsumexp(x, n_threads=threads)
            yield "softmax", xent.softmax(x, n_threads=threads)
            yield "log_softmax", xent.log_softmax(x, n_threads=threads)
            mask = numbers((rows, n), 11) < 3
            yield "masked logsumexp", xent.logsumexp(x, where=mask, n_threads=threads)
            yield "masked softmax", xent.softmax(x, where=mask, n_threads=threads)
            yield "masked log_softmax", xent.log_softmax(x, where=mask, n_threads=threads)
        if x.dtype.itemsize > 2:
            yield "logsumexp of factors", xent.logsumexp(x, b=numbers((n,), 7), return_sign=True)[0]
        for target_name, target in targets_of(n, rows):
            for name, options in options_of(n, rows):
                for reduction in ("mean", "none"):
                    yield f"cross_entropy, {target_name}, {name}", xent.cross_entropy(
                        x, target, reduction=reduction, return_grad=True, **options
                    )
        for target_name, target in targets_of(n, rows):
            for name, options in (("plain", {}), ("smoothing", {"label_smoothing": 0.125}), ("mask", {"where": mask})):
                yield f"Hessian, {target_name}, {name}", xent.cross_entropy(x, target, return_hess=True, **options)
        ref = LAYOUTS[layout]((x.astype(np.float64) + numbers((rows, n), 12, -1, 1)).astype(DTYPES[dtype]))
        for name, options in (("plain", {}), ("scale, mask", {"logit_scale": 0.75, "where": mask})):
            for reduction in ("mean", "none"):
                yield f"kl_divergence, {name}", xent.kl_divergence(
                    x, ref, reduction=reduction, return_grad=True, **options
                )
        for name, reference in (("evaluate", None), ("evaluate, reference", ref)):
            measures = xent.evaluate(x, np.arange(rows) % n, reference=reference)
            yield name, (*measures.topk.values(), *(x for x in measures if not isinstance(x, dict)))
        p = LAYOUTS[layout](numbers((rows, n), 8, 0, 1).astype(DTYPES[dtype]))
        y = numbers((rows, n), 9, 0, 1)
        for reduction in ("mean", "none"):
            given = {"reduction": reduction, "return_grad": True}
            yield "binary_cross_entropy_with_logits", xent.binary_cross_entropy_with_logits(
                x, y, label_smoothing=0.125, pos_weight=2.5, **given
            )
            yield "binary_cross_entropy", xent.binary_cross_entropy(p, y, **given)
            yield "categorical_cross_entropy", xent.categorical_cross_entropy(p, y, reduction=reduction)


def hashes(dtype, layout):
    """One for each function."""
    sums = {}
    with np.errstate(all="ignore"):
        for name, result in results(dtype, layout):
            for array in result if isinstance(result, tuple) else (result,):
                array = np.asarray(array)
                nothing = np.isnan(array.astype(np.float64))     # what kind of NaN a NaN is does not matter
                array = np.where(nothing, np.asarray(0, array.dtype), array)
                sums.setdefault(name, hashlib.blake2b(digest_size=8)).update(nothing.tobytes() + array.tobytes())
    return {name: sum_.hexdigest() for name, sum_ in sums.items()}


def libm():
    """A hash of the C library's functions that kernels call once a row: others round otherwise."""
    functions = (math.exp, math.expm1, math.tanh, lambda x: math.log(abs(x) + 0.25))
    values = [function(x) for x in numbers((4096,), 10).tolist() for function in functions]
    return hashlib.blake2b(np.array(values).tobytes(), digest_size=8).hexdigest()


def instruction_set():
    """The one in use. What `xent.isa()` calls the baseline is another one on each architecture."""
    return "neon" if platform.machine().lower() in {"aarch64", "arm64"} else xent.isa()


if __name__ == "__main__":
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    known[instruction_set()] = {"libm": libm()} | {dtype: hashes(dtype, "C") for dtype in DTYPES}
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
