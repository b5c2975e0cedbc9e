"""The kernels of AVX-512 or NEON on a CPU without it: vectors of 64 bytes, made of registers of 32, or of 16 bytes with
multiply-adds that round once.

    python tests/kernels/wide_twin.py [avx512 or neon]

compiles that twin into a temporary directory and prints the functions whose results differ from those of the set: of
the kernels themselves if this CPU can run them, of the hashes in golden_bits.json otherwise. There should be none. It
needs an x86-64 CPU with AVX2, GCC or Clang, and Cython; it takes a minute or two.
"""

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import golden_bits
import numpy

import xent
from xent import _kernels

TREE = Path(__file__).parents[2]
MODULE = "_kernels_avx2"  # the twin takes its place in a copy of the package
TWINS = {"avx512": (64, ["-mavx2", "-mfma"]), "neon": (16, ["-mfma"])}      # bytes of a vector, and flags
HASHES = """
import json, xent
from golden_bits import DTYPES, hashes
print(json.dumps({"file": xent.__file__, "bits": {dtype: hashes(dtype, "C") for dtype in DTYPES}}))
"""


def missing(name):
    """Why there can be no twin of this set here, or None."""
    if "avx2" not in _kernels.cpu_sets():
        return "needs a CPU with AVX2"
    if shutil.which("cc") is None:
        return "needs a C compiler"
    if importlib.util.find_spec("Cython") is None or importlib.util.find_spec("setuptools") is None:
        return "needs Cython and setuptools"
    if name not in _kernels.cpu_sets():
        known = json.loads(golden_bits.FILE.read_text()).get(name)
        if known is None or known["libm"] != golden_bits.libm():
            return "no hashes for this C library"
    return None


def build(directory, name):
    """Copy the package to `directory`, with the twin in it."""
    width, flags = TWINS[name]
    setup = runpy.run_path(str(TREE / "setup.py"))
    shutil.copytree(
        Path(xent.__file__).parent, directory / "xent", ignore=shutil.ignore_patterns(f"{MODULE}.*", "__pycache__")
    )
    in_c = directory / f"{MODULE}.c"
    directives = [f"-X{name}={value}" for name, value in setup["DIRECTIVES"].items()]
    subprocess.run(
        [sys.executable, "-m", "cython", "-I.", *directives, f"xent/{MODULE}.pyx", "-o", in_c],
        cwd=TREE / "src",
        check=True,
        capture_output=True,
    )
    include = [f"-I{path}" for path in (sysconfig.get_path("include"), numpy.get_include(), TREE / "src/xent")]
    macros = [f"-D{name}={value}" for name, value in (*setup["MACROS"], ("XENT_WIDTH", width), ("NDEBUG", 1))]
    # Results do not depend on optimization; less of it compiles sooner.
    flags = [*setup["FLAGS"], *flags, "-O1", "-fwrapv", "-fPIC", "-shared", "-w", "-Wno-psabi"]
    target = directory / "xent" / (MODULE + sysconfig.get_config_var("EXT_SUFFIX"))
    subprocess.run(["cc", *flags, *include, *macros, in_c, "-o", target], check=True)


def hashes_of(package, isa):
    """The hashes of golden_bits.py by a package in this directory."""
    path = os.pathsep.join([str(package), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "XENT_ISA": isa}
    done = subprocess.run([sys.executable, "-c", HASHES], env=environment, check=True, stdout=subprocess.PIPE)
    result = json.loads(done.stdout)
    assert Path(result["file"]).parent == package / "xent"
    return result["bits"]


def differences(directory, name):
    """Compile the twin; the dtypes and functions of which it has other bits than the set."""
    build(directory, name)
    twin = hashes_of(directory, "avx2")
    if name in _kernels.cpu_sets():
        expected = hashes_of(Path(xent.__file__).parents[1], name)
    else:
        expected = json.loads(golden_bits.FILE.read_text())[name]
    return [f"{dtype}: {what}" for dtype in twin for what in twin[dtype] if twin[dtype][what] != expected[dtype][what]]


if __name__ == "__main__":
    found = []
    for set_name in sys.argv[1:] or TWINS:
        if missing(set_name):
            sys.exit(f"{set_name}: {missing(set_name)}")
        with tempfile.TemporaryDirectory() as temporary:
            found += [f"{set_name}, {what}" for what in differences(Path(temporary).resolve(), set_name)]
    print("\n".join(found) or "the same bits")
    sys.exit(bool(found))
