"""The cost of fitting on Dask: overhead of one evaluation, rows per second, and a fit compared with a local one.

Usage:

    python bench/scaling.py [overhead] [rates] [fit] [--quick]

Needs the extra ``dask``. The clusters run on this machine: 2 worker processes. `docs/scaling.md` extrapolates to larger
clusters.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster, wait

import xent
import xent.dask
from xent._fit.row_sums import RowSums
from xent.dask.partitions import build_partitions
from xent.dask.rounds import Cluster
from xent.dask.sums import cluster_rows

WORKERS = 2


def make_rows(seed: int, rows: int, features: int, classes: int) -> tuple[Any, Any]:
    """Random float32 rows, and labels that depend on them."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((rows, features), np.float32)
    coef = np.random.default_rng(0).standard_normal((features, classes), np.float32)
    scores = X @ coef / np.float32(features**0.5)
    scores += random.gumbel(size=scores.shape).astype(np.float32)
    return X, scores.argmax(axis=1)


@contextmanager
def start_cluster(threads: int = 1) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=threads, dashboard_address=":0", memory_limit=0) as workers,
        Client(workers) as client,
    ):
        yield client


def time_median(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_overhead(quick: bool) -> None:
    """Time one evaluation of partitions of 20 rows, which is nearly all overhead."""
    print("| coefficients | partitions | threads | one evaluation, ms |\n|---|---|---|---|")
    points = []
    for threads, counts in ((1, (10, 100, 1000)), (8, (1000,)), (64, (1000,))):
        with start_cluster(threads) as client:
            if threads == 1:
                nothing = time_median(partial(run_nothing, client), 5)
            for classes, features in ((3, 10), (100, 1000)):
                for partitions in counts[:2] if quick else counts:
                    seconds = time_evaluation(client, partitions, classes, features)
                    tasks, size = WORKERS * threads, classes * (features + 1) * 8e-6
                    points.append((1.0, tasks, partitions, tasks * size, partitions * size, seconds))
                    print(
                        f"| {classes} x {features + 1} | {partitions} | {tasks} | {1e3 * seconds:.1f} |", flush=True
                    )
    table = np.array(points)
    # Fit relative errors, so that the longest evaluation does not decide alone.
    model = np.linalg.lstsq(table[:, :-1] / table[:, -1:], np.ones(len(table)), rcond=None)[0]
    print(
        f"\nseconds = {model[0]:.4f} + {model[1]:.6f} tasks + {model[2]:.6f} partitions + MB of coefficients x "
        f"({model[3]:.6f} tasks + {model[4]:.6f} partitions); relative errors "
        f"{np.abs(table[:, :-1] @ model / table[:, -1] - 1).max():.0%} at most; a task that does nothing takes "
        f"{10 * nothing:.2f} ms\n"
    )


def time_evaluation(client: Client, partitions: int, classes: int, features: int) -> float:
    partitions_there = [dask.delayed(make_rows)(i, 20, features, classes) for i in range(partitions)]
    rows = cluster_rows(Cluster(client, 0), build_partitions({"X": partitions_there}), np.arange(classes), None, 1)
    matrix = np.zeros((classes, features + 1))
    rows.sums.loss_gradient(matrix)
    return time_median(lambda: rows.sums.loss_gradient(matrix), 15 if partitions < 1000 else 5)


def run_nothing(client: Client) -> None:
    """100 tasks without work."""
    client.gather(client.map(identity, range(100), pure=False))


def identity(x: int) -> int:
    return x


def measure_rates(client: Client, quick: bool) -> None:
    """Rows per second of one evaluation in one thread of a worker, while all workers compute."""
    print("| features x classes | rows | rows per second of one thread | GB/s of X | Gflop/s |\n|---|---|---|---|---|")
    for features, classes in ((100, 3), (500, 10), (1000, 100)):
        n = (20 if quick else 100) * 1_000_000 // features
        tasks = [client.submit(measure_rate, i, n, features, classes, pure=False) for i in range(WORKERS)]
        speed = n / statistics.mean(client.gather(tasks))
        flops = 4 * features * classes * speed / 1e9
        gigabytes = speed * features * 4e-9
        print(f"| {features} x {classes} | {n} | {speed:,.0f} | {gigabytes:.2f} | {flops:.1f} |", flush=True)
    print()


def measure_rate(seed: int, n: int, features: int, classes: int) -> float:
    X, y = make_rows(seed, n, features, classes)
    sums = RowSums(X, y.astype(np.int64), classes, np.ones(n), 1)
    matrix = np.random.default_rng(0).standard_normal((classes, features + 1)) * 0.01
    return time_median(lambda: sums.loss_gradient(matrix), 3)


def measure_fit(client: Client, quick: bool, iterations: int = 15) -> None:
    """The same number of iterations on 2 local threads and on 2 workers, in turn."""
    print("| X | partitions | local, s | cluster, s | ratio | not computing |\n|---|---|---|---|---|---|")
    n, features, classes = (200_000 if quick else 1_000_000), 500, 10
    xent.set_num_threads(WORKERS)
    for partitions in (10, 40) if quick else (20, 100):
        rows = n // partitions
        loads = client.compute([dask.delayed(make_rows)(i, rows, features, classes) for i in range(partitions)])
        wait(loads)
        X = np.empty((n, features), np.float32)
        y = np.empty(n, np.int64)
        for i in range(partitions):
            part = slice(i * rows, (i + 1) * rows)
            X[part], y[part] = make_rows(i, rows, features, classes)
        there = [dask.delayed(part) for part in loads]
        options: dict[str, Any] = {"tol": 1e-30, "max_iter": iterations, "solver": "lbfgs"}
        times: list[list[float]] = [[], []]
        for _ in range(2 if quick else 3):
            for which, model, data in (
                (0, xent.LogisticRegression(**options), (X, y)),
                (1, xent.dask.LogisticRegression(**options), (there,)),
            ):
                start = time.perf_counter()
                model.fit(*data)
                times[which].append((time.perf_counter() - start, model.n_iter_[0], model.objective_))
        local, remote = (statistics.median(t[0] for t in side) for side in times)
        assert times[0][0][1] == times[1][0][1]
        assert abs(times[0][0][2] / times[1][0][2] - 1) < 1e-7
        print(
            f"| {X.nbytes / 1e9:.1f} GB, {n} x {features}, {classes} classes | {partitions} | {local:.2f} | "
            f"{remote:.2f} | {remote / local:.2f} | {model.timing_.scheduling:.0%} |",
            flush=True,
        )
        del loads, there, X, y
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["overhead", "rates", "fit", []], help="all if not given")
    parser.add_argument("--quick", action="store_true", help="less data and fewer partitions")
    options = parser.parse_args()
    warnings.simplefilter("ignore", xent.ConvergenceWarning)
    if not options.parts or "overhead" in options.parts:
        measure_overhead(options.quick)
    with start_cluster() as client:
        for part in (measure_rates, measure_fit):
            if not options.parts or part.__name__.removeprefix("measure_") in options.parts:
                part(client, options.quick)


if __name__ == "__main__":
    main()
