"""Multinomial logistic regression on Dask collections, and evaluation of logits. Needs the extra ``dask``.

The steps of a fit, each with the file that does it:

1. `estimator.py`, `fit`: checks the parameters, and picks an `Engine`: a cluster, or Dask's scheduler in this process.
2. `partitions.py`, `build_partitions`: X, y and weights become one graph, optimised together, so that shared sources
   are read once and rows stay in the same order; `_check_shuffles` refuses columns whose order may differ.
3. `partitions.py`, `use_aligned`: if the blocks of y or weights are not as long as those of X, they are cut so that
   block i of each column has the same rows.
4. `tasks.py`, `make_partition`: on a worker, the blocks of one partition are checked (lengths, pandas indexes, values).
   A `Summary` of each partition (labels, weights, types) returns to the client.
5. `xent._estimator.partitions`, `make_plan`: the summaries become one plan: classes, class weights, features, dtype.
   With it, each partition becomes a `RowSums`, which computes the loss and its derivatives over its rows.
6. `sums.py`: how the solver gets sums over all rows: `local_rows` (all in this process), `cluster_rows` (partitions
   stay on the workers) or `reread_rows` (``persist=False``: read again for every evaluation, and compared with the
   first).
7. `placement.py`, `assign_partitions`: each thread of the cluster gets a group of partitions that its worker holds.
8. `rounds.py`, `Cluster.round` or `Engine.compute_sum`: one evaluation. The coefficients go to the workers, one task
   per group (or per partition) returns its sums, and further tasks add those.
9. `tasks.py`, `sum_over`, `add_sums`, `round_sums`: each sum is three float64 numbers, rounded once, at the end. So
   the result does not depend on the order of the partitions or the number of workers.
   (`local_rows` adds gradients in the order of the partitions, as a fit of `Blocks` does.)
10. The solver (`xent._fit`) runs on the client, on one vector. It does not know where the rows are.

`evaluation.py` takes steps 1 to 4, then merges one `StreamingLoss` per partition, which is as exact.
"""

import sys

from xent.dask.estimator import LogisticRegression
from xent.dask.evaluation import evaluate
from xent.dask.rounds import Timing

__all__ = ["LogisticRegression", "Timing", "evaluate"]

if "xent.onnx" in sys.modules:      # it registers this class, too, whichever of the two modules is imported first
    sys.modules["xent.onnx"].register(LogisticRegression)
