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
    """Give BLAS one thread, where threadpoolctl is there to do it (scikit-learn brings it); the process has it so.

    The passes over rows have the threads of `_calls.threads`. Those of BLAS, woken for a millisecond's work, wait for
    one another by spinning: beside busy neighbours a fit of the digits took thirty times longer with them.
    """
    controller = _controller()
    limit: AbstractContextManager[object] = controller.limit(limits=1, user_api="blas") if controller else nullcontext()
    return limit
