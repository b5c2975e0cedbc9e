"""The extension modules: one source, compiled once per instruction set. Everything else is in pyproject.toml."""

import os
import platform
import shutil
import sys
import sysconfig
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The vector type in _core/simd.h takes its width from these flags. Modules beyond the baseline are imported
# only on a CPU that has the set (see _calls/dispatch.py), so a wheel built anywhere runs everywhere.
SETS = {"_kernels": []}
if platform.machine().lower() in {"x86_64", "amd64"}:
    SETS["_kernels_avx2"] = ["-mavx2", "-mfma"]
    SETS["_kernels_avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]

# -fpeel-loops unrolls loops over a few vectors. GCC stops inlining when a file has grown too much, which would leave
# small vector functions as calls, at half the speed; hence the larger limits. -O3 compiles longer and is no faster.
# A multiply-add is fused where the source says so and nowhere else: a result must not depend on what was inlined where.
INLINING = ["--param", "inline-unit-growth=200", "--param", "large-function-growth=1000"]
FLAGS = ["-O2", "-fpeel-loops", *INLINING, "-g0", "-fno-math-errno", "-ffp-contract=off"]

# On Windows, only Clang compiles the vector type: as clang-cl, with MSVC's headers and linker. MSVC itself compiles
# vectors of one element, which no other set makes faster. Nor does GCC have other sets there, since it spills AVX
# registers to addresses that are not aligned.
CLANG_CL = None
if sys.platform == "win32":
    CLANG_CL = shutil.which(os.environ.get("CC") or "clang-cl")
    SETS = {name: [f"/clang:{flag}" for flag in flags] for name, flags in SETS.items() if CLANG_CL or not flags}
    FLAGS = ["/clang:-fno-math-errno", "/clang:-ffp-contract=off"] if CLANG_CL else []
MACROS = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION")]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "cdivision": True,
    "freethreading_compatible": True,
    "initializedcheck": False,
    "wraparound": False,
}


class BuildExt(build_ext):
    """Say what is missing before the compiler's own, less helpful, complaint; compile the sets side by side."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or len(SETS)      # even on fewer CPUs: two rounds would leave one of them idle

    def build_extensions(self):
        if CLANG_CL and self.compiler.compiler_type == "msvc":
            if not self.compiler.initialized:       # it would set `cc` later otherwise
                self.compiler.initialize()
            self.compiler.cc = CLANG_CL
        command = getattr(self.compiler, "compiler_so", None) or ["cl"]
        if self.compiler.compiler_type == "unix" and shutil.which(command[0]) is None:
            sys.exit(
                f"xent is compiled when it is installed, and the C compiler {command[0]!r} was not found. Install one "
                "(Debian, Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install) or set CC."
            )
        header = os.path.join(sysconfig.get_path("include"), "Python.h")
        if not os.path.exists(header):
            sys.exit(
                f"xent is compiled when it is installed, and Python's header {header} was not found. Install it "
                "(Debian, Ubuntu: apt install python3-dev; Fedora: dnf install python3-devel)."
            )
        # Here, and not when this file is read: nobody waits for Cython to learn that the compiler is missing.
        translated = cythonize(self.extensions, compiler_directives=DIRECTIVES, nthreads=len(SETS))
        for extension, in_c in zip(self.extensions, translated, strict=True):
            extension.sources = in_c.sources
        super().build_extensions()


extensions = [
    Extension(
        f"xent.{name}",
        [f"src/xent/{name}.pyx"],
        include_dirs=["src/xent", numpy.get_include()],
        define_macros=MACROS,
        extra_compile_args=FLAGS + flags,
        depends=["src/xent/_kernels.pyx", *glob("src/xent/_core/*")],
    )
    for name, flags in SETS.items()
]
extensions += [
    Extension(
        f"xent._core.{name}",
        [f"src/xent/_core/{name}.pyx"],
        include_dirs=["src/xent", numpy.get_include()],
        define_macros=MACROS,
        extra_compile_args=FLAGS,
        depends=glob("src/xent/_core/memory.*") + glob("src/xent/_core/scheduler.*"),
    )
    for name in ("memory", "scheduler")
]

if __name__ == "__main__":      # Cython's processes may import this file
    setup(ext_modules=extensions, cmdclass={"build_ext": BuildExt})
