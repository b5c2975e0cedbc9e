"""``python -m xent.sklearn script.py``: runs a script, or a module, under the patch."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import runpy
import sys
from collections.abc import Sequence

from xent.sklearn import patch

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Raises
    ------
    SystemExit
        With code 2 for arguments that make no sense or a script that cannot be read, and 0 for ``--help``. What the
        script raises is raised.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.verbose:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("xent.sklearn").setLevel(logging.INFO if options.verbose == 1 else logging.DEBUG)
    target, arguments = options.script, options.arguments
    if not (_is_module(target) if options.module else os.path.exists(target)):
        parser.error(f"there is no {'module' if options.module else 'file'} {target!r}")
    patch()
    sys.argv = [target, *arguments]
    if options.module:
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        if not getattr(sys.flags, "safe_path", False):      # else the first entry is not for scripts
            sys.path[0] = os.path.dirname(os.path.abspath(target))
        runpy.run_path(target, run_name="__main__")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:     # of a package that it would be in
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xent.sklearn",
        usage="%(prog)s [-v] (script.py | -m module) [arguments ...]",
        description="Run a Python script with scikit-learn's LogisticRegression, LogisticRegressionCV and log_loss "
        "computed by xent.",
    )
    parser.add_argument(
        "-v", "--verbose", action="count", help="say what is left to scikit-learn, and why; -vv: what xent fits, too"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="run a module, as python -m does")
    parser.add_argument("script", help="the script, or the name of the module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    return parser


if __name__ == "__main__":
    main()
