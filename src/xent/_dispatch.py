"""Which build of the kernels runs: the best instruction set that this CPU has, or the one that XENT_ISA names."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING

from xent import _kernels

_MODULES = {"baseline": "xent._kernels", "avx2": "xent._kernels_avx2", "avx512": "xent._kernels_avx512"}


def _choose() -> tuple[str, ModuleType]:
    usable = ["baseline"]
    for name in _kernels.cpu_sets():
        # Only x86-64 builds with GCC or Clang have modules beyond the baseline (see setup.py).
        if importlib.util.find_spec(_MODULES[name]) is not None:
            usable.append(name)
    name = os.environ.get("XENT_ISA") or usable[-1]
    if name not in _MODULES:
        raise ImportError(f"XENT_ISA is {name!r}; it must be one of {', '.join(map(repr, _MODULES))}")
    if name not in usable:
        raise ImportError(f"XENT_ISA is {name!r}, which this CPU or this build lacks; usable here: {', '.join(usable)}")
    return name, importlib.import_module(_MODULES[name])


if TYPE_CHECKING:
    kernels = _kernels
    _name: str
else:
    _name, kernels = _choose()


def isa() -> str:
    """Return the instruction set of the kernels in use.

    Returns
    -------
    str
        ``"baseline"`` (SSE2 on x86-64, NEON on ARM), ``"avx2"`` or ``"avx512"``. The environment variable
        ``XENT_ISA``, read when xent is imported, forces one.

    Examples
    --------
    >>> import xent
    >>> xent.isa() in {"baseline", "avx2", "avx512"}
    True
    """
    return _name
