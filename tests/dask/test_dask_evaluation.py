"""Evaluation on Dask is that of all rows in memory, to the last bit."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pytest
from dask_data import CONTAINERS, TABLE, F, columns, shuffled
from good_arguments import Tensor

import xent
import xent.dask


@pytest.mark.parametrize("axis", [-1, 1])
def test_evaluate(both, axis):
    random = np.random.default_rng(0)
    logits = random.normal(size=(60, 7) if axis == -1 else (60, 7, 5)).astype(np.float32)
    target = random.integers(-1, 7, size=logits[:, 0].shape)
    weight = random.uniform(size=target.shape)
    blocks = (17, 3) if axis == -1 else (17, 3, 2)
    given = {"axis": axis, "ignore_index": -1, "topk": 2}
    data = da.from_array(logits, chunks=blocks), da.from_array(target, chunks=20)
    result = xent.dask.evaluate(*data, sample_weight=da.from_array(weight, chunks=10), **given)
    assert result == xent.evaluate(logits, target, sample_weight=weight, **given)
    ref = random.normal(size=logits.shape)
    expected = xent.evaluate(logits, target, reference=ref, **given)
    for other in (da.from_array(ref, chunks=(23, *blocks[2:], 7)[: ref.ndim]), ref):
        assert xent.dask.evaluate(*data, reference=other, **given) == expected


@pytest.mark.parametrize("shape", [(60, 7), (60, 3, 7)])
def test_evaluate_tensors_in_memory(engine, shape):
    random = np.random.default_rng(0)
    logits, target, weight = random.normal(size=shape), random.integers(7, size=shape[:-1]), random.random(shape[:-1])
    result = xent.dask.evaluate(da.from_array(logits, chunks=20), Tensor(target), sample_weight=Tensor(weight))
    assert result == xent.evaluate(logits, target, sample_weight=weight)


def test_evaluate_columns_of_one_frame(both):
    frame = dd.from_pandas(TABLE, npartitions=5).map_partitions(shuffled).shuffle("i")
    result = xent.dask.evaluate(frame[F], frame["y"], sample_weight=frame["w"], reference=frame[F] * 2)
    x = TABLE[F].to_numpy()
    assert result == xent.evaluate(x, TABLE["y"], sample_weight=TABLE["w"], reference=2 * x)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_evaluate_other_containers_and_blocks(engine, folder, kind):
    logits, target, weight = columns(folder, kind)
    result = xent.dask.evaluate(logits, target, sample_weight=weight)
    assert result == xent.evaluate(TABLE[F].to_numpy(), TABLE["y"], sample_weight=TABLE["w"])


@pytest.mark.deep
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_evaluate_several_axes(engine, axis):
    random = np.random.default_rng(0)
    logits = np.moveaxis(random.normal(size=(60, 9, 5, 4)), -1, axis)
    target = random.integers(0, 4, size=(60, 9, 5))
    shape = np.moveaxis(np.zeros((17, 4, 2, 3)), -1, axis).shape
    data = da.from_array(logits, chunks=shape)
    expected = xent.evaluate(logits, target, axis=axis)
    for blocks in ((17, 4, 2), (20, 9, 5), (60, 1, 3)):
        assert xent.dask.evaluate(data, da.from_array(target, chunks=blocks), axis=axis) == expected
    assert xent.dask.evaluate(data, target, axis=axis) == expected
    if axis == -1:
        keep = random.uniform(size=60) < 0.6
        some_logits = data[da.from_array(keep, chunks=17)]
        some_targets = da.from_array(target, chunks=(23, 9, 1))[da.from_array(keep, chunks=23)]
        assert xent.dask.evaluate(some_logits, some_targets) == xent.evaluate(logits[keep], target[keep])


def test_evaluate_what_does_not_fit(engine):
    frame = dd.from_pandas(TABLE, npartitions=5)
    moved = dd.from_pandas(TABLE.set_axis(np.roll(np.arange(len(TABLE)), 1)), npartitions=5, sort=False)
    with pytest.raises(ValueError, match=r"^partition \d: the index of target is"):
        xent.dask.evaluate(frame[F], moved["y"])
    with pytest.raises(TypeError, match=r"^partition \d: target"):
        xent.dask.evaluate(frame[F], frame["y"].astype(float))
    with pytest.raises(ValueError, match=r"^partition \d: target\[\d+\] is 9"):
        xent.dask.evaluate(frame[F], frame["y"].replace(0, 9))
    with pytest.raises(ValueError, match="target has 100 rows, but logits has 1200 rows in 5"):
        xent.dask.evaluate(frame[F], TABLE["y"][:100])
    with pytest.raises(ValueError, match=r"target has shape \(60, 3\); it must have shape \(60, 2\)"):
        xent.dask.evaluate(da.zeros((60, 2, 4), chunks=20), np.zeros((60, 3), int))
    for shape, message in (
        ((60, 2), "reference has 2 dimensions; it must have 3, as logits"),
        ((60, 2, 3), r"reference has shape \(60, 2, 3\); it must have shape \(60, 2, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            xent.dask.evaluate(da.zeros((60, 2, 4), chunks=20), np.zeros((60, 2), int), reference=np.zeros(shape))
    with pytest.raises(ValueError, match=r"^partition \d: reference has shape \(\d+, 3\); it must have shape"):
        xent.dask.evaluate(da.zeros((60, 4), chunks=(20, 4)), np.zeros(60, int), reference=np.zeros((60, 3)))
    with pytest.raises(ValueError, match="axis is 0; it must be -1 or 1"):
        xent.dask.evaluate(frame[F], frame["y"], axis=0)
    assert xent.dask.evaluate(da.from_array([1.0, 2.0], chunks=1), 1).accuracy == 1
