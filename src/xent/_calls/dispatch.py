"""Selects the build of the kernels: the best instruction set of this CPU, or the one named by XENT_ISA."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from xent import _kernels

_MODULES = {"baseline": "xent._kernels", "avx2": "xent._kernels_avx2", "avx512": "xent._kernels_avx512"}


def _choose() -> tuple[str, ModuleType]:
    offered = ["baseline", *_kernels.cpu_sets()]
    wanted = os.environ.get("XENT_ISA")
    if wanted and wanted not in _MODULES:
        raise ImportError(f"XENT_ISA is {wanted!r}; it must be one of {', '.join(map(repr, _MODULES))}")
    for name in [wanted] if wanted else offered[::-1]:
        module = _load(name) if name in offered else None
        if module is not None:
            return name, module
    usable = ", ".join(name for name in offered if _load(name) is not None)
    raise ImportError(f"XENT_ISA is {wanted!r}, which this CPU or this build lacks; usable here: {usable}")


def _load(name: str) -> ModuleType | None:
    """The kernels of one set; only x86-64 builds with GCC or Clang have any beyond the baseline (see setup.py)."""
    try:
        return import_module(_MODULES[name])
    except ModuleNotFoundError:
        return None


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
