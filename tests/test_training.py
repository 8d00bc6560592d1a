"""Codebooks are trained the same twice, better than by chance, and refused with the values where they cannot be."""

import sys

import faiss
import numpy as np
import pytest

from kvconform.claims import training
from kvconform.claims.training import Codebooks, NoTrainer, train_codebooks
from kvconform.impls import numpy_ref


def vectors(n, head_dim, seed=0):
    """Tokens whose channels have different scales."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, head_dim)) * np.exp(rng.standard_normal(head_dim))).astype(np.float32)


def correlated(n, head_dim, seed, mixed_by=0):
    """Tokens whose channels are mixtures of half as many."""
    mix = np.random.default_rng(mixed_by).standard_normal((head_dim // 2, head_dim))
    return (np.random.default_rng(seed).standard_normal((n, head_dim // 2)) @ mix).astype(np.float32)


def error(books, x):
    """Mean square of what coding loses, relative to the vectors' own."""
    turned = np.ascontiguousarray(books.rotated(x), np.float32)[:, None]
    codes = numpy_ref.pq_encode(turned, books.centroids, dtype="uint8")
    left = books.back(numpy_ref.pq_decode(codes, books.centroids, dtype="uint8")[:, 0])
    return float(np.square(left - x).sum() / np.square(x).sum())


@pytest.mark.parametrize("rotate", [False, True])
def test_one_seed_gives_one_set_of_bits_however_many_threads_there_are(rotate):
    x, before = vectors(600, 64), faiss.omp_get_max_threads()
    try:
        found = []
        for threads in (1, 3):
            faiss.omp_set_num_threads(threads)
            found.append(train_codebooks(x, 16, 16, 5, rotate=rotate))
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    one, two = found
    assert one.centroids.tobytes() == two.centroids.tobytes()
    if rotate:
        assert one.rotation.tobytes() == two.rotation.tobytes()
    assert train_codebooks(x, 16, 16, 6, rotate=rotate).centroids.tobytes() != one.centroids.tobytes()


@pytest.mark.parametrize("num_centroids", [16, 256])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("num_subspaces", [16, 32, 64])
def test_trained_codebooks_lose_less_than_tokens_taken_by_chance(num_subspaces, head_dim, num_centroids):
    x = vectors(512, head_dim)
    books = train_codebooks(x, num_subspaces, num_centroids, 0)
    assert books.centroids.shape == (num_subspaces, num_centroids, head_dim // num_subspaces)
    assert books.centroids.dtype == np.float32
    drawn = x[np.random.default_rng(1).permutation(len(x))[:num_centroids]]
    by_chance = drawn.reshape(num_centroids, num_subspaces, -1).swapaxes(0, 1)
    assert error(books, x) < error(Codebooks(np.ascontiguousarray(by_chance)), x)


@pytest.mark.parametrize(("num_subspaces", "head_dim", "num_centroids"), [(1, 3, 2), (3, 9, 4), (5, 5, 8)])
def test_small_odd_sizes_are_trained(num_subspaces, head_dim, num_centroids):
    books = train_codebooks(vectors(40, head_dim), num_subspaces, num_centroids, 0)
    assert books.centroids.shape == (num_subspaces, num_centroids, head_dim // num_subspaces)
    assert np.isfinite(books.centroids).all()


@pytest.mark.parametrize(("num_subspaces", "num_centroids"), [(16, 16), (32, 16), (16, 256)])
def test_a_rotation_is_orthogonal_and_no_worse_on_correlated_channels(num_subspaces, num_centroids):
    x, other = (correlated(1024, 64, seed) for seed in (1, 2))
    plain, turned = (train_codebooks(x, num_subspaces, num_centroids, 0, rotate=rotate) for rotate in (False, True))
    assert plain.rotation is None
    exact = np.abs(turned.rotation.astype(np.float64) @ turned.rotation.T - np.eye(64)).max()
    assert exact < 64 * np.finfo(np.float32).eps  # a dot of 64 products of rounded numbers
    assert error(turned, x) <= error(plain, x)
    assert error(turned, other) <= error(plain, other)


def test_what_is_rotated_comes_back():
    books = train_codebooks(correlated(256, 8, 1), 4, 16, 0, rotate=True)
    x = np.eye(8, dtype=np.float32)
    assert np.abs(books.back(books.rotated(x)) - x).max() < 64 * np.finfo(np.float32).eps
    assert books.rotated(x).tobytes() != x.tobytes()


@pytest.mark.parametrize(
    ("x", "num_subspaces", "num_centroids", "sentence"),
    [
        (vectors(32, 64), 24, 16, "24 subspaces do not divide a head of 64 numbers"),
        (vectors(32, 64), 0, 16, "0 subspaces do not divide a head of 64 numbers"),
        (vectors(32, 64), 16, 3, "3 centroids: faiss trains a power of two of them, of codes of 8 bits at most"),
        (vectors(32, 64), 16, 512, "512 centroids: faiss trains a power of two of them, of codes of 8 bits at most"),
        (vectors(15, 64), 16, 16, "15 vectors are too few for 16 centroids"),
        (vectors(32, 64)[None], 16, 16, "vectors [1, 32, 64]: [n, head_dim] is what codebooks are trained on"),
        (np.full((32, 64), np.nan), 16, 16, "vectors hold 2048 numbers that are not finite"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_cannot_be_trained_is_refused_with_the_values(x, num_subspaces, num_centroids, sentence):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        train_codebooks(x, num_subspaces, num_centroids, 0)
    assert str(refused.value) == sentence


def test_without_faiss_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert not training.can_train()
    with pytest.raises(NoTrainer, match=r"pip install 'kvconform\[codebooks\]'"):
        train_codebooks(vectors(32, 64), 16, 16, 0)
