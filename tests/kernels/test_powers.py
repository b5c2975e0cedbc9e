"""The tables of powers of two and the polynomials in powers.h, recomputed with mpmath."""

import re
from pathlib import Path

import numpy as np
import powers_of_two
import pytest
from mpmath import mpf

HEADER = Path(__file__).parents[2] / "src/xent/_core/powers.h"
SECTION = r"#(?:el)?if XENT_TABLE_BITS_(f\d\d) == (\d) +/\* error ([\d.]+) \*/\n(.*?)(?=\n#el)"
SECTIONS = {
    (kind, int(bits)): (float(error), text)
    for kind, bits, error, text in re.findall(SECTION, HEADER.read_text(), re.DOTALL)
}


def array(text, name):
    """The items of a C array, without suffixes."""
    items = re.search(rf"\b{name}\[\] = \{{(.*?)\}};", text, re.DOTALL)[1]
    return [
        item.strip().removesuffix("f") if "0x" not in item else item.strip()
        for item in items.split(",")
        if item.strip()
    ]


def test_all_sections_are_found():
    assert sorted(SECTIONS) == sorted((kind, bits) for kind, bits, _ in powers_of_two.KNOWN)


@pytest.mark.parametrize(("kind", "bits"), SECTIONS)
def test_entries(kind, bits):
    text = SECTIONS[kind, bits][1]
    dtype, mantissa = powers_of_two.TYPES[kind]
    entries, lost = array(text, f"xent_entries_{kind}"), array(text, f"xent_lost_{kind}")
    assert len(entries) == len(lost) == 2**bits
    for i, (stored, loss) in enumerate(zip(entries, lost, strict=True)):
        pattern = int(stored, 16) + (i << (mantissa - bits))
        entry = np.array(pattern, f"i{np.dtype(dtype).itemsize}").view(dtype)[()]
        exact = mpf(2) ** (mpf(i) / 2**bits)
        below, above = np.nextafter(entry, dtype(0)), np.nextafter(entry, dtype(4))
        distances = [abs(mpf(float(x)) - exact) for x in (entry, below, above)]
        assert min(distances) == distances[0]
        expected = (exact - mpf(float(entry))) / mpf(float(entry))
        assert abs(mpf(loss) - expected) <= 1e-9 * abs(expected)


@pytest.mark.parametrize(("kind", "bits"), SECTIONS)
def test_polynomial(kind, bits):
    stated, text = SECTIONS[kind, bits]
    coefficients = [mpf(c) for c in array(text, f"xent_powers_{kind}")]
    assert len(coefficients) == int(re.search(rf"XENT_DEGREE_{kind} (\d)", text)[1])
    assert 0.9 * stated < powers_of_two.largest_error(coefficients, bits, kind) <= stated


def test_script():
    """It finds the polynomial with an even and an odd number of coefficients, up to the exchange's last digits."""
    for bits, degree in ((4, 3), (3, 4)):
        known = [float(c) for c in array(SECTIONS["f32", bits][1], "xent_powers_f32")]
        found = [float(c) for c in powers_of_two.minimax(bits, degree)]
        np.testing.assert_allclose(found, known, rtol=1e-7)
    for kind, bits in SECTIONS:
        stored = [int(entry, 16) for entry in array(SECTIONS[kind, bits][1], f"xent_entries_{kind}")]
        assert powers_of_two.table(bits, kind)[0] == stored
