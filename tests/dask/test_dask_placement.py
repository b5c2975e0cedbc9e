"""Which thread of a cluster gets which partitions."""

from xent.dask.placement import assign_partitions


def test_every_worker_keeps_what_it_holds():
    groups = assign_partitions([["a"], ["b"], ["a"], ["b"], ["a", "b"]], [10, 10, 10, 10, 1], {"a": 1, "b": 1})
    assert sorted(w for w, _ in groups) == ["a", "b"]
    (a,) = (own for w, own in groups if w == "a")
    assert {0, 2} <= set(a) <= {0, 2, 4}
    # A partition that is more than a share stays.
    assert dict(assign_partitions([["c"]], [10], {"a": 1, "b": 1, "c": 1, "d": 1})) == {"c": [0]}


def test_lost_partitions_and_those_beyond_a_share_go_to_who_has_least():
    groups = dict(assign_partitions([["a"]] * 6 + [[], ["gone"]], [5] * 8, {"a": 1, "b": 1}))
    assert len(groups["a"]) == len(groups["b"]) == 4
    assert sorted(groups["a"] + groups["b"]) == list(range(8))
    assert assign_partitions([["gone"], []], [3, 4], {}) == [(None, [0, 1])]


def test_threads_of_one_worker_share_its_rows_evenly():
    groups = assign_partitions([["a"]] * 12, [1] * 11 + [4], {"a": 3})
    assert [own for _, own in groups] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert assign_partitions([["a"]], [3], {"a": 8}) == [("a", [0])]
