"""CPU quotas of control groups, read from made-up trees of files."""

import math
import os

import pytest

from xent._calls import cpus

INF = math.inf
ROOT_MOUNT = "23 1 254:0 / / rw,relatime - ext4 /dev/root rw"
MOUNT_2 = "30 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
MOUNT_1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHER_1 = "33 31 0:30 / /sys/fs/cgroup/cpuset rw shared:10 - cgroup cgroup rw,cpuset"
HYBRID_2 = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture
def tree(tmp_path):
    """Write files below a folder, and return it as the root of a file system."""

    def make(cgroup="", mounts=(), files=None):
        mountinfo = "".join(f"{line}\n" for line in (ROOT_MOUNT, *mounts))
        proc = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo}
        for name, content in {**proc, **(files or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path)

    return make


def version_1(folder, quota, period=100_000):
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("/", {}, INF),
        ("/", {"": "150000 100000\n"}, 1.5),    # a container, which sees its own group as the root
        ("/a/b", {"": "max 100000\n", "/a": "max 100000\n", "/a/b": "200000 100000\n"}, 2),
        ("/a/b", {"/a": "50000 100000\n", "/a/b": "200000 100000\n"}, 0.5),
        ("/a/b", {"/a": "300000 100000\n", "/a/b": "max 100000\n"}, 3),
        ("/a/b", {"": "700000 100000\n", "/a/b": "800000 100000\n"}, 7),
        ("/a/b", {"/a/c": "100000 100000\n"}, INF),
        ("/a:b/c d", {"/a:b/c d": "20000 10000\n"}, 2),
        ("/a/../../b", {"/a": "50000 100000\n", "": "50000 100000\n"}, INF),    # outside of the mounted tree
    ],
)
def test_version_2(group, files, expected, tree):
    """The smallest quota of a group and its ancestors."""
    root = tree(f"0::{group}\n", [MOUNT_2], files={f"{V2}{folder}/cpu.max": text for folder, text in files.items()})
    assert cpus.quota(root) == expected


@pytest.mark.parametrize(("quota", "period", "expected"), [(-1, 100_000, INF), (250_000, 100_000, 2.5), (1, 2, 0.5)])
def test_version_1(quota, period, expected, tree):
    groups = "9:name=systemd:/x\n3:cpuset:/y\n2:cpu,cpuacct:/a/b\n"
    files = {**version_1(f"{V1}/a/b", quota, period), **version_1("sys/fs/cgroup/cpuset/y", 1)}
    assert cpus.quota(tree(groups, [OTHER_1, MOUNT_1], files=files)) == expected


def test_version_1_above(tree):
    files = {**version_1(f"{V1}/a/b", 400_000), **version_1(f"{V1}/a", 300_000), **version_1(V1, -1)}
    assert cpus.quota(tree("2:cpu,cpuacct:/a/b\n", [MOUNT_1], files=files)) == 3


def test_mounted_part(tree):
    """A container may have its group mounted, and still be told its name outside."""
    mount = MOUNT_1.replace(" / /sys", " /docker/x /sys")
    files = {**version_1(V1, 200_000), **version_1(f"{V1}/y", 100_000)}
    for group, expected in (("/docker/x", 2), ("/docker/x/y", 1), ("/docker/z", INF), ("/docker", INF), ("/", INF)):
        assert cpus.quota(tree(f"2:cpu,cpuacct:{group}\n", [mount], files=files)) == expected


def test_both_versions(tree):
    files = {**version_1(f"{V1}/a", 300_000), "sys/fs/cgroup/unified/b/cpu.max": "200000 100000\n"}
    assert cpus.quota(tree("1:cpu,cpuacct:/a\n0::/b\n", [MOUNT_1, HYBRID_2], files=files)) == 2
    files["sys/fs/cgroup/unified/b/cpu.max"] = "max 100000\n"
    assert cpus.quota(tree("1:cpu,cpuacct:/a\n0::/b\n", [MOUNT_1, HYBRID_2], files=files)) == 3


ODD = [
    b"", b"\n", b"max", b"100000", b"0 100000", b"100000 0", b"-5 100000", b"5 -5", b"a b", b"1 2 3", b"1.5 1",
    b"\xff\xfe \x00", b"9" * 5000 + b" 1", b"9" * 400 + b" 1", b"1 " + b"9" * 400 + b"\n\n",
]


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_odd_files(content, tree):
    """They give no quota or a positive one, and raise nothing."""
    root = tree("0::/a\n", [MOUNT_2], files={f"{V2}/a/cpu.max": content})
    assert cpus.quota(root) >= 0
    assert cpus.available(root) >= 1
    root = tree(content + b"\n0::/a\n2:cpu,cpuacct:/a", [MOUNT_1, MOUNT_2], files=version_1(f"{V1}/a", "x", "y"))
    assert cpus.quota(root) >= 0
    strange = content, content + b" - cgroup2", b"1 2 - cgroup2 x y", b"1 2 3 / /" + content + b" - cgroup x cpu"
    for mounts in strange:
        root = tree("0::/a\n2:cpu,cpuacct:/a\n", files={"proc/self/mountinfo": mounts})
        assert cpus.quota(root) == INF


@pytest.mark.parametrize("name", ["proc/self/cgroup", "proc/self/mountinfo", f"{V2}/a/cpu.max"])
def test_unreadable_files(name, tree, tmp_path):
    root = tree("0::/a\n", [MOUNT_2], files={f"{V2}/a/cpu.max": "100000 100000\n"})
    assert cpus.quota(root) == 1
    (tmp_path / name).unlink()
    assert cpus.quota(root) == INF
    (tmp_path / name).mkdir()
    assert cpus.quota(root) == INF


def test_no_tree(tmp_path):
    assert cpus.quota(str(tmp_path / "nothing")) == INF


@pytest.mark.parametrize(("quota", "expected"), [("max", 3), ("1000", 1), ("100000", 1), ("100001", 2), ("900000", 3)])
def test_available(quota, expected, tree, monkeypatch):
    """Part of a CPU counts as one; never more than the affinity."""
    root = tree("0::/\n", [MOUNT_2], files={f"{V2}/cpu.max": f"{quota} 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert cpus.available(root) == expected
    assert type(cpus.available(root)) is int


JOBS = """
from xent._calls import cpus
from xent._calls.scalars import check_n_jobs
cpus.available = lambda: 3
print(*map(check_n_jobs, (-1, -2, -3, -9, 1, 7, None)))
"""


def test_jobs(python):
    """-1 means all CPUs that this process may use, -2 one fewer, and at least one, as in joblib."""
    assert python(JOBS) == "3 2 1 1 1 7 None"


def test_without_affinity(tree, monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for count, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert cpus.available(tree()) == expected


def test_this_machine():
    assert 0 < cpus.quota("/") <= INF
    assert 1 <= cpus.available() <= os.cpu_count()
