"""Runs all benchmarks, one after the other: `python bench [--quick] [--json FOLDER]`.

Each runs in its own interpreter, so that it meets no thread pools of those before it.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = (
    "start", "fit", "fit_pass", "cross_validation", "linear", "linear_evaluate", "options", "divergence", "boosting",
    "limits", "temperature", "covariance", "expansion", "ops", "contention", "patch",
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python bench", description="Run every benchmark.")
    parser.add_argument("--quick", action="store_true", help="a few cells of each, in minutes")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="save one file per benchmark there")
    options = parser.parse_args(arguments)
    failed = False
    for script in SCRIPTS:
        command = [sys.executable, str(Path(__file__).with_name(f"{script}.py"))]
        if options.quick:
            command.append("--quick")
        if options.json:
            command += ["--json", str(options.json / f"{script}.json")]
        failed |= subprocess.run(command, check=False).returncode != 0
        print(flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
