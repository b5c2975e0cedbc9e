"""Results have not changed by a bit (see golden_bits.py)."""

import json

import golden_bits
import pytest
import wide_twin


@pytest.mark.parametrize("layout", golden_bits.LAYOUTS)
@pytest.mark.parametrize("dtype", golden_bits.DTYPES)
def test_golden_bits(dtype, layout):
    known = json.loads(golden_bits.FILE.read_text()).get(golden_bits.instruction_set())
    if known is None or known["libm"] != golden_bits.libm():
        pytest.skip("no hashes for this instruction set and C library")
    assert golden_bits.hashes(dtype, layout) == known[dtype]


@pytest.mark.deep
@pytest.mark.parametrize("name", wide_twin.TWINS)
def test_wide_twin(name, tmp_path):
    """AVX2 gives the bits of AVX-512 in vectors of 64 bytes, and those of NEON in vectors of 16: every CPU that has it
    can check what they compute."""
    if wide_twin.missing(name) is not None:
        pytest.skip(wide_twin.missing(name))
    assert wide_twin.differences(tmp_path.resolve(), name) == []
