"""Results have not changed by a bit (see golden_bits.py)."""

import json

import golden_bits
import pytest

import xent


@pytest.mark.parametrize("layout", golden_bits.LAYOUTS)
@pytest.mark.parametrize("dtype", golden_bits.DTYPES)
def test_golden_bits(dtype, layout):
    known = json.loads(golden_bits.FILE.read_text()).get(xent.isa())
    if known is None or known["libm"] != golden_bits.libm():
        pytest.skip("no hashes for this instruction set and C library")
    assert golden_bits.hashes(dtype, layout) == known[dtype]
