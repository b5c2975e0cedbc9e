"""Compiles loops.c for this machine when the benchmark starts, and calls its loops in threads."""

import ctypes
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness.cases import Floats

SOURCE = Path(__file__).with_name("loops.c")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
ALIGNMENT = 64  # bytes: a cache line, and the longest vector
WAYS = (1, 2, 4)

Library = ctypes.CDLL


def aligned(shape: tuple[int, ...], dtype: str) -> Floats:
    """An uninitialised array whose first element starts a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def find_compiler() -> list[str]:
    """The C compiler's command: from CC, or that of Python's own build, or cc."""
    command = shlex.split(os.environ.get("CC") or "")
    if not command:
        built_with = shlex.split(sysconfig.get_config_var("CC") or "cc")
        command = built_with if shutil.which(built_with[0]) else ["cc"]
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"the C compiler {command[0]!r} was not found; install one or set CC")
    return command


def build(dtype: str, threads: int) -> list[Library]:
    """Compile the loops for a dtype, once for each of WAYS, and verify them. Raises FileNotFoundError if there is no C
    compiler, and RuntimeError if compilation fails or a loop's answer is wrong."""
    command, bits = find_compiler(), 8 * np.dtype(dtype).itemsize
    libraries = []
    with tempfile.TemporaryDirectory() as folder:
        for ways in WAYS:
            target = Path(folder) / f"loops_{bits}_{ways}.so"
            definitions = [f"-DBITS={bits}", f"-DWAYS={ways}"]
            done = subprocess.run(
                [*command, *FLAGS, *definitions, str(SOURCE), "-o", str(target)], capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"{shlex.join(done.args)} failed:\n{done.stderr}")
            libraries.append(ctypes.CDLL(str(target)))
    for library in libraries:
        verify(library, dtype, threads)
    return libraries


class Team:
    """Threads that run one job each, the caller the first one. ctypes releases the GIL during a call."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(max(1, threads - 1))

    def run(self, jobs: list[Callable[[], Any]]) -> None:
        helpers = [self.pool.submit(job) for job in jobs[1:]]
        jobs[0]()
        for helper in helpers:
            helper.result()


def bind_over_memory(library: Library, name: str, x: Floats, y: Floats, team: Team) -> Callable[[], None]:
    """A call that runs a loop over all of x, a part for each thread. y has x's size, or one number per thread."""
    line = ALIGNMENT // x.itemsize
    part = -(-x.size // (team.threads * line)) * line
    function = find_function(library, name, lengths=1)
    jobs = []
    for i, start in enumerate(range(0, x.size, part)):
        place = start if y.size == x.size else i
        jobs.append(partial(function, get_address(x, start), get_address(y, place), min(part, x.size - start)))
    return partial(team.run, jobs)


def bind_over_rows(library: Library, name: str, x: Floats, y: Floats, repeats: int, team: Team) -> Callable[[], None]:
    """A call in which every thread runs a loop over all rows of x; the first axis of y has one output per thread."""
    function = find_function(library, name, lengths=3)
    return partial(team.run, [partial(function, get_address(x), get_address(own), *x.shape, repeats) for own in y])


def find_function(library: Library, name: str, lengths: int) -> Callable[..., None]:
    function = library[name]
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_long] * lengths
    function.restype = None
    return function


def get_address(x: Floats, start: int = 0) -> ctypes.c_void_p:
    """A pointer to an element. It keeps the array alive."""
    pointer: ctypes.c_void_p = x.reshape(-1)[start:].ctypes.data_as(ctypes.c_void_p)
    return pointer


def verify(library: Library, dtype: str, threads: int) -> None:
    """Raise a RuntimeError if a loop's answer is not NumPy's."""
    team = Team(threads)
    rng = np.random.default_rng(0)

    def agree(name: str, got: Any, want: Any, ulps: float = 0) -> None:
        if not np.allclose(got, want, rtol=ulps * np.finfo(dtype).eps, atol=0):
            raise RuntimeError(f"loops.c: {name} is wrong for {dtype}")

    x, y = aligned((10_007,), dtype), aligned((10_007,), dtype)
    x[:] = rng.integers(-8, 9, x.size)  # sums of small integers are exact
    sums = np.zeros(threads, dtype)
    bind_over_memory(library, "read_all", x, sums, team)()
    agree("read_all", sums.sum(), x.sum())
    for name, want in (("copy", x), ("update", -x), ("copy_around", x), ("update", -x)):
        bind_over_memory(library, name, x, y, team)()
        agree(name, y, want)

    logits = aligned((5, 1024), dtype)
    logits[:] = 3 * rng.standard_normal(logits.shape)
    exps = np.exp(logits.astype(np.float64))
    pairs, probabilities = aligned((threads, 5, 2), dtype), aligned((threads, *logits.shape), dtype)
    bind_over_rows(library, "exp_sum", logits, pairs, 1, team)()
    bind_over_rows(library, "exp_sum_multiply", logits, probabilities, 1, team)()
    for (value, exponent), probability in zip(np.moveaxis(pairs, 2, 1), probabilities, strict=True):
        agree("exp_sum", value * np.exp2(exponent.astype(np.float64)), exps.sum(axis=1), ulps=50)
        agree("exp_sum_multiply", probability, exps / exps.sum(axis=1, keepdims=True), ulps=50)
