"""A limit for the threads of BLAS while a fit uses it for preconditioners only."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any


@cache
def _controller() -> Any:
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    return ThreadpoolController()


def limit_to_one_thread() -> AbstractContextManager[object]:
    """Limit BLAS to one thread, in the whole process, if threadpoolctl is installed (scikit-learn requires it).

    The passes over rows use the threads of `_calls.threads`. BLAS threads, woken for a millisecond of work, wait for
    each other by spinning: beside busy processes a fit of the digits took thirty times longer with them.
    """
    controller = _controller()
    limit: AbstractContextManager[object] = controller.limit(limits=1, user_api="blas") if controller else nullcontext()
    return limit
