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
@pytest.mark.skipif(wide_twin.missing() is not None, reason=str(wide_twin.missing()))
def test_wide_twin(tmp_path):
    """Vectors of 64 bytes give the bits of AVX-512 without its instructions: every CPU can check what they compute."""
    assert wide_twin.differences(tmp_path.resolve()) == []
