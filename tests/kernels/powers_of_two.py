"""Compute the tables and polynomials of src/xent/_core/powers.h and print them in its form.

    python tests/kernels/powers_of_two.py f32 4 3       # float32, 2^4 entries, a polynomial of degree 3

Without arguments, it prints those that powers.h holds. The polynomials are minimax: of all with so many coefficients,
they have the least largest error. A Remez exchange finds them; their last digits depend on where it stops.
"""

import sys
import textwrap

import numpy as np
from mpmath import mp, mpf

mp.dps = 50
TYPES = {"f32": (np.float32, 23), "f64": (np.float64, 52)}  # and the bits of a mantissa
KNOWN = [("f32", 4, 3), ("f32", 3, 4), ("f64", 4, 6), ("f64", 2, 8)]
GRID = 1000  # where the error is looked at before its largest values are refined
EQUAL_ENOUGH = mpf("1e-6")  # how far the largest error may be above the smallest extreme, relative to it


def largest_argument(bits):
    """Half the distance of entries, and 2 % for the rounding of what is left of an exponent."""
    return mpf("1.02") / 2 ** (bits + 1)


def polynomial_error(coefficients, f):
    """The error of 1 + f (c0 + c1 f + ...), relative to 2^f."""
    value = mpf(0)
    for coefficient in reversed(coefficients):
        value = value * f + coefficient
    return (1 + f * value) / mpf(2) ** f - 1


def interpolate(points):
    """The polynomial whose errors at `points` are equal, but for the signs of error / f, which alternate."""
    rows, right = mp.matrix(len(points), len(points)), mp.matrix(len(points), 1)
    for i, f in enumerate(points):
        for power in range(len(points) - 1):
            rows[i, power] = f**power
        rows[i, len(points) - 1] = (-1) ** i * mpf(2) ** f / abs(f)
        right[i] = (mpf(2) ** f - 1) / f
    return list(mp.lu_solve(rows, right))[:-1]


def refine(function, f, step):
    """Where `function` has its largest value within `step` of f, by ternary search."""
    low, high = f - step, f + step
    for _ in range(30):
        third = (high - low) / 3
        if function(low + third) < function(high - third):
            low += third
        else:
            high -= third
    return (low + high) / 2


def extremes(coefficients, points, width):
    """For each of `points`, the argument of the largest error around it with the same sign of error / f."""
    grid = [width * (2 * mpf(i) / GRID - 1) for i in range(GRID + 1)]
    grid = sorted({*grid, *points} - {0})
    errors = [polynomial_error(coefficients, f) for f in grid]
    runs = []  # adjacent grid points of one sign
    for f, error in zip(grid, errors, strict=True):
        sign = mp.sign(error) * mp.sign(f)
        if not runs or sign != runs[-1][0]:
            runs.append((sign, []))
        runs[-1][1].append((abs(error), f))
    assert len(runs) == len(points)
    found = []
    for _, run in runs:
        f = max(run)[1]
        refined = refine(lambda g: abs(polynomial_error(coefficients, g)), f, 2 * width / GRID)
        found.append(max(-width, min(width, refined)))
    return found


def minimax(bits, degree):
    """c0, c1, ... of 2^f - 1 = f (c0 + c1 f + ...), of this degree, for |f| <= `largest_argument`."""
    width = largest_argument(bits)
    points = [-width * mp.cos(mp.pi * (i + mpf("0.1")) / (degree + mpf("0.2"))) for i in range(degree + 1)]
    points = [f if abs(f) > width / 100 else width / 100 for f in points]
    while True:
        coefficients = interpolate(points)
        points = extremes(coefficients, points, width)
        sizes = [abs(polynomial_error(coefficients, f)) for f in points]
        if max(sizes) < min(sizes) * (1 + EQUAL_ENOUGH):
            return coefficients


def as_stored(coefficients, dtype):
    return [mpf(float(dtype(float(c)))) for c in coefficients]


def largest_error(coefficients, bits, kind, count=501):
    """The largest error at Chebyshev points, of coefficients rounded to the type, in units of 2^-24 or 2^-53."""
    dtype, mantissa = TYPES[kind]
    stored, width = as_stored(coefficients, dtype), largest_argument(bits)
    points = [width * mp.cos(mp.pi * i / (count - 1)) for i in range(count)]
    return float(max(abs(polynomial_error(stored, f)) for f in points) * 2 ** (mantissa + 1))


def table(bits, kind):
    """The entries as powers.h has them, integers, and what they lost."""
    dtype, mantissa = TYPES[kind]
    entries, lost = [], []
    for i in range(2**bits):
        exact = mpf(2) ** (mpf(i) / 2**bits)
        entry = dtype(float(exact)) if kind == "f64" else round_once(exact, mantissa)
        entries.append(int(entry.view(f"i{entry.itemsize}")) - (i << (mantissa - bits)))
        lost.append((exact - mpf(float(entry))) / mpf(float(entry)))
    return entries, lost


def round_once(x, mantissa):
    """A number in [1, 2) as float32, not by way of float64."""
    return np.float32(int(mp.nint(x * 2**mantissa)) / 2**mantissa)


def listing(start, items):
    """`start {items};`, on several lines if one is too short."""
    whole = f"{start} {{{', '.join(items)}}};"
    if len(whole) <= 120:
        return whole
    lines = textwrap.fill(", ".join(items) + ",", 116, initial_indent="    ", subsequent_indent="    ")
    return f"{start} {{\n{lines}\n}};"


def rounded_up(error):
    """Two digits, not below the error."""
    unit = 10.0 ** (np.floor(np.log10(error)) - 1)
    return f"{np.ceil(error / unit) * unit:.2g}"


def section(kind, bits, degree):
    """The lines of powers.h for one table."""
    coefficients, (entries, lost) = minimax(bits, degree), table(bits, kind)
    digits, suffix, scalar, integer = (11, "f", "float", "int32_t") if kind == "f32" else (20, "", "double", "int64_t")
    error = rounded_up(largest_error(coefficients, bits, kind))
    losses = [mp.nstr(x, 12) + suffix if x else "0" for x in lost]
    return "\n".join(
        [
            f"#if XENT_TABLE_BITS_{kind} == {bits}        /* error {error} */",
            f"#  define XENT_DEGREE_{kind} {degree}",
            listing(f"static const double xent_powers_{kind}[] =", [mp.nstr(c, digits) for c in coefficients]),
            listing(f"static const {integer} xent_entries_{kind}[] =", [hex(entry) for entry in entries]),
            listing(f"static const {scalar} xent_lost_{kind}[] =", losses),
        ]
    )


if __name__ == "__main__":
    asked = [(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))] if len(sys.argv) > 1 else KNOWN
    for kind, bits, degree in asked:
        print(section(kind, bits, degree))
