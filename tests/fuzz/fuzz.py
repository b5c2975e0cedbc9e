"""Random cases for a given time: calls, hostile callers and damaged files. See README.md, next to this file.

    python tests/fuzz/fuzz.py calls hostile files --seconds 3600 --seed 7 --isa avx2

A case is made from the seed and its number alone. Cases run in a process of their own, so that one that crashes it, or
hangs, is a finding like any other: it is printed with the command that repeats it, and the next case is run.
"""

import argparse
import collections
import contextlib
import faulthandler
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).resolve()
KINDS = ("calls", "hostile", "files")
LONGEST_CASE = 60.0         # seconds; a case that takes longer hangs


# --- the process that runs cases -------------------------------------------------------------------------------------


def run_cases(kind, seed, first, stop, deadline, report):
    """Run the cases from number `first` on, and report them."""
    import numpy as np

    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
    module = importlib.import_module(f"fuzz_{kind}")
    counts, findings, number = collections.Counter(), [], first
    while number != stop and time.time() < deadline:
        # Before each case: if it crashes, this is all that is known.
        write_report(report, {"number": number, "counts": counts, "findings": findings})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for label in module.run_case(np.random.default_rng([seed, number, *kind.encode()])):
                    counts[label] += 1
        except Exception:
            findings.append([number, traceback.format_exc()])
        counts["cases"] += 1
        number += 1
    write_report(report, {"number": number, "counts": counts, "findings": findings, "done": True})


def write_report(report, content):
    with open(f"{report}.tmp", "w") as file:
        json.dump(content, file)
    os.replace(f"{report}.tmp", report)


# --- the process that watches it -------------------------------------------------------------------------------------


def watch(kind, seed, first, stop, seconds):
    """Run cases in children until the time is over; return counts and findings, pairs of a number and a text."""
    counts, findings, deadline = collections.Counter(), [], time.time() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.time() < deadline and first != stop:
            report = Path(folder, "report")
            for leftover in Path(folder).iterdir():
                leftover.unlink()
            command = [sys.executable, str(HERE), kind, "--seed", str(seed), "--report", str(report)]
            command += ["--case", str(first), "--until", str(deadline)]
            command += [] if stop is None else ["--stop", str(stop)]
            with open(Path(folder, "log"), "w+") as log:
                child = subprocess.Popen(command, stdout=log, stderr=log)
                hangs = wait_for(child, report)
                log.seek(0)
                said = log.read()
            found = json.loads(report.read_text()) if report.exists() else {"counts": {}, "findings": []}
            counts.update(found["counts"])
            findings += found["findings"]
            if found.get("done"):
                break
            number = found.get("number", first)
            what = f"no end after {LONGEST_CASE:.0f} s" if hangs else f"exit code {child.returncode}"
            findings.append([number, f"{what}\n{said[-6000:]}"])
            counts["cases"] += 1
            first = number + 1
    return counts, findings


def wait_for(child, report):
    """Wait for the child; True if it had to be killed since a case does not end."""
    seen, since = None, time.time()
    while child.poll() is None:
        time.sleep(0.05)
        found = report.read_text() if report.exists() else ""
        if found != seen:
            seen, since = found, time.time()
        if time.time() > since + LONGEST_CASE:
            with contextlib.suppress(OSError):
                os.kill(child.pid, 6)       # the child prints where it is
                child.wait(10)
            child.kill()
            child.wait()
            return True
    return False


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"of cases: {', '.join(KINDS)}; by default, all of them")
    parser.add_argument("--seconds", type=float, default=60, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--isa", help="the instruction set, as in XENT_ISA")
    parser.add_argument("--cases", type=int, help="the number of cases of each kind, if there is time for so many")
    parser.add_argument("--case", type=int, help="the number of the only case to run")
    parser.add_argument("--stop", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--report", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.isa:
        os.environ["XENT_ISA"] = given.isa
    kinds = given.kinds or list(KINDS)
    if given.report:
        faulthandler.enable()
        run_cases(kinds[0], given.seed, given.case, given.stop, given.until, given.report)
        return 0
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no such kinds: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    first, stop = (0, given.cases) if given.case is None else (given.case, given.case + 1)
    failed = False
    for kind in kinds:
        start = time.time()
        counts, findings = watch(kind, given.seed, first, stop, given.seconds / len(kinds))
        cases = counts.pop("cases", 0)
        print(f"{kind}: {cases} cases in {time.time() - start:.0f} s, seed {given.seed}, {len(findings)} findings")
        for label, count in sorted(counts.items()):
            print(f"    {label}: {count}")
        for number, text in findings:
            isa = f" --isa {given.isa}" if given.isa else ""
            print(f"\nFINDING: python tests/fuzz/fuzz.py {kind} --seed {given.seed} --case {number}{isa}\n{text}")
        failed |= bool(findings) or not cases
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
