"""How many CPUs this process may use: by its affinity, and by the quota of its control groups (a container's)."""

from __future__ import annotations

import math
import os


def available(root: str = "/") -> int:
    """The number of threads that can run at once, at least 1; a fraction of a CPU counts as one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, quota(root))))


def quota(root: str) -> float:
    """CPU seconds per second that the control groups allow, from the files below `root`; infinity without a limit.

    A file that is missing, or that cannot be understood, sets no limit.
    """
    groups: dict[str, str] = {}     # group of each controller; version 2 has one group for all of them, under ""
    for line in _read(root, "proc/self/cgroup").splitlines():
        _, controllers, group = (line.split(":", 2) + 2 * [""])[:3]
        groups.update(dict.fromkeys(controllers.split(","), group))
    least = math.inf
    for line in _read(root, "proc/self/mountinfo").splitlines():
        mounted, _, source = line.partition(" - ")
        top, folder = (mounted.split(" ") + 5 * [""])[3:5]
        kind, _, options = (source.split(" ") + 2 * [""])[:3]
        controller = {"cgroup": "cpu", "cgroup2": ""}.get(kind)
        if controller in groups and controller in ("", *options.split(",")):
            least = min(least, _least_quota(root, folder, top, groups[controller]))
    return least


def _least_quota(root: str, folder: str, top: str, group: str) -> float:
    """The least quota of a group and those above it, up to the one that is mounted at the folder."""
    parts = group.rstrip("/").split("/")
    above = top.rstrip("/").split("/")
    if parts[: len(above)] != above or ".." in parts:
        return math.inf     # the folder shows other groups
    parts = parts[len(above) :]
    return min(_quota_of(root, "/".join([folder, *parts[:n]])) for n in range(len(parts) + 1))


def _quota_of(root: str, folder: str) -> float:
    """Microseconds allowed in each period: version 2 has both numbers in one file, version 1 in two."""
    words = _read(root, f"{folder}/cpu.max").split()
    words = words or [_read(root, f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        allowed, period = map(int, words)
        return allowed / period if allowed > 0 and period > 0 else math.inf
    except (ValueError, OverflowError):     # "max", or no file
        return math.inf


def _read(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path.lstrip("/")), encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (OSError, ValueError):       # no such file, or no possible name of one
        return ""
