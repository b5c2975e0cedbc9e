"""A short run of the fuzzer, the same cases each time; and what it does about cases that fail, crash or hang."""

import sys

import fuzz
import pytest

pytest.importorskip("ml_dtypes")
CASES = {"calls": 150, "hostile": 12, "files": 80}
LONGEST = 120       # seconds, on a busy machine


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages, limits of memory and forks")
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_a_short_run(kind):
    counts, findings = fuzz.watch(kind, 0, 0, CASES[kind], LONGEST)
    assert not findings, "\n".join(text for _, text in findings)
    assert counts["cases"] == CASES[kind]


@pytest.mark.deep
@pytest.mark.skipif(sys.platform == "win32", reason="guard pages, limits of memory and forks")
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_a_longer_run(kind):
    counts, findings = fuzz.watch(kind, 1, 0, 4 * CASES[kind], LONGEST)
    assert not findings, "\n".join(text for _, text in findings)
    assert counts["cases"] == 4 * CASES[kind]


PLANTED = """
import os, time
HOW = {2: os.abort, 4: lambda: time.sleep(99), 6: lambda: 1 / 0, 7: lambda: print(missing)}
def run_case(rng, cases=iter(range(99))):
    with open(os.environ["PLANTED"], "a") as file:
        file.write("x")
        number = file.tell() - 1
    HOW.get(number, int)()
    yield "good"
"""


def test_failures_crashes_and_hangs_are_findings(tmp_path, monkeypatch):
    """And the cases after them are run."""
    (tmp_path / "fuzz_planted.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PLANTED", str(tmp_path / "numbers"))
    monkeypatch.setattr(fuzz, "LONGEST_CASE", 3.0)
    counts, findings = fuzz.watch("planted", 0, 0, 9, LONGEST)
    assert [number for number, _ in findings] == [2, 4, 6, 7]
    found = zip(findings, ("exit code -6", "no end after 3 s", "ZeroDivisionError", "NameError"), strict=True)
    assert all(text in said for (_, said), text in found)
    assert "run_case" in findings[1][1]     # where it hangs
    assert counts == {"cases": 9, "good": 5}
