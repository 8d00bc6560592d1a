"""Codebooks of product quantisation as MILLION trains them: by faiss' ProductQuantizer, after OPQ's rotation if asked.

One seed gives one set of bits: k-means starts from permutations drawn by that seed, and runs in one thread, since how
many threads there are decides in which order a sum is taken. faiss is imported when something is trained.

Source: faiss 1.15, ProductQuantizer and OPQMatrix; Ge, He, Ke and Sun 2013 (optimised product quantisation).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvconform.specs.data import Array

NEEDED = "training codebooks needs faiss-cpu: pip install 'kvconform[codebooks]'"


class NoTrainer(ModuleNotFoundError):
    """faiss is not there; the text says what to install."""


KMEANS_ROUNDS = 8
"""Of k-means; faiss' own 25 take longer and lower the error little."""

ROTATION_ROUNDS, ROTATION_VECTORS = 6, 1024
"""Times that OPQ trains codebooks and rotates toward them, and how many vectors it looks at."""


@dataclass(frozen=True, eq=False)
class Codebooks:
    """What vectors are coded with: the nearest centroids of `x @ rotation.T`, if there is one.

    centroids   float32 [num_subspaces, num_centroids, sub_dim]
    rotation    float32 [head_dim, head_dim], orthogonal, or None
    """

    centroids: Array
    rotation: Array | None = None

    def rotated(self, x: Array) -> Array:
        """Vectors [..., head_dim] in the axes that the centroids are in."""
        return x if self.rotation is None else x @ self.rotation.T

    def back(self, x: Array) -> Array:
        """The other way round."""
        return x if self.rotation is None else x @ self.rotation


def can_train() -> bool:
    """Whether faiss is there."""
    return importlib.util.find_spec("faiss") is not None


def train_codebooks(
    vectors: Array, num_subspaces: int, num_centroids: int, seed: int, *, rotate: bool = False
) -> Codebooks:
    """Centroids of each subspace by k-means over vectors [n, head_dim]; rotate: after OPQ's rotation.

    Raises ValueError with the values, NoTrainer with what to install.
    """
    _check(vectors, num_subspaces, num_centroids)
    if not can_train():
        raise NoTrainer(NEEDED)
    faiss: Any = importlib.import_module("faiss")
    x = np.ascontiguousarray(vectors, np.float32)
    with _one_thread(faiss):
        rotation = _rotation(faiss, x, num_subspaces, num_centroids, seed) if rotate else None
        turned = Codebooks(np.empty(0), rotation).rotated(x)
        quantizer = _quantizer(faiss, x.shape[1], num_subspaces, num_centroids, seed)
        quantizer.train(np.ascontiguousarray(turned))
        centroids = faiss.vector_to_array(quantizer.centroids).reshape(num_subspaces, num_centroids, -1)
    return Codebooks(centroids, rotation)


def _check(vectors: Array, num_subspaces: int, num_centroids: int) -> None:
    if vectors.ndim != 2:
        raise ValueError(f"vectors {list(vectors.shape)}: [n, head_dim] is what codebooks are trained on")
    n, head_dim = vectors.shape
    if num_subspaces < 1 or head_dim % num_subspaces:
        raise ValueError(f"{num_subspaces} subspaces do not divide a head of {head_dim} numbers")
    if not 2 <= num_centroids <= 256 or num_centroids & (num_centroids - 1):
        raise ValueError(f"{num_centroids} centroids: faiss trains a power of two of them, of codes of 8 bits at most")
    if n < num_centroids:
        raise ValueError(f"{n} vectors are too few for {num_centroids} centroids")
    if not np.isfinite(vectors).all():
        raise ValueError(f"vectors hold {np.count_nonzero(~np.isfinite(vectors))} numbers that are not finite")


def _quantizer(faiss: Any, head_dim: int, num_subspaces: int, num_centroids: int, seed: int) -> Any:
    made = faiss.ProductQuantizer(head_dim, num_subspaces, num_centroids.bit_length() - 1)
    made.cp.seed = seed
    made.cp.niter = KMEANS_ROUNDS
    made.cp.min_points_per_centroid = 1  # below 39 faiss warns on stderr
    return made


def _rotation(faiss: Any, x: Array, num_subspaces: int, num_centroids: int, seed: int) -> Array:
    """OPQ's, from no rotation on: what it is trained for can only fall."""
    head_dim = x.shape[1]
    trained, inner = (
        faiss.OPQMatrix(head_dim, num_subspaces),
        _quantizer(faiss, head_dim, num_subspaces, num_centroids, seed),
    )
    trained.pq, trained.niter, trained.niter_pq_0, trained.niter_pq = inner, ROTATION_ROUNDS, KMEANS_ROUNDS, 2
    trained.max_train_points = max(num_centroids, ROTATION_VECTORS)
    faiss.copy_array_to_vector(np.eye(head_dim, dtype=np.float32).reshape(-1), trained.A)
    trained.train(x)
    found = faiss.vector_to_array(trained.A).reshape(head_dim, head_dim)
    trained.pq = None  # it does not own it
    return np.asarray(found)


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
