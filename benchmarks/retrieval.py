"""Search of the 100 nearest of 200,000 items with 64 dimensions, one query at a time on one thread.

The vectors are simulated: 2,000 clusters, normalised to length 1. The baselines are FAISS's exact search, graphs of usearch and
hnswlib (`pip install usearch hnswlib`), and rows of RaBitQ in the cells of the index. Each is measured at its fastest setting
whose recall is at least 0.98 on the same queries, in rounds that alternate with those of the index.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks._rival_indexes import Built, NotInstalled, Search, hnswlib, rabitq, tune, usearch
from benchmarks.result import Result
from ml.retrieval.index import RECALL, ItemIndex, overlap

ITEMS, DIM, K, QUERIES, CLUSTERS = 200_000, 64, 100, 500, 2_000
FILTER, CELLS, PROBES = 0.01, 1024, 128
ROUNDS, TRAINED_ON = 3, 64 * CELLS
SEARCH, BUILD = f"Nearest {K} of {ITEMS:,} items", f"Build an index of {ITEMS:,} items"


def run() -> list[Result]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(1):
            return _measured()
    finally:
        faiss.omp_set_num_threads(threads)


def _measured() -> list[Result]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, DIM), np.float32)
    vectors, queries = _points(rng, centres, ITEMS), _points(rng, centres, QUERIES)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(vectors)
    _, exact = flat.search(queries, K)
    began = time.process_time()
    index = ItemIndex(np.arange(ITEMS), vectors, queries=_points(rng, centres, QUERIES))
    build = time.process_time() - began

    def mine(query: NDArray[np.float32]) -> NDArray[np.int64]:
        return index.search(query, K).ids

    recall = overlap(np.concatenate([mine(queries[n : n + 1]) for n in range(QUERIES)]), exact)
    ours, theirs = _rates(mine, lambda query: flat.search(query, K)[1], queries)
    note = f"{1e3 / ours:.3f} ms a query, recall {recall:.4f}, {index.probes} cells, built in {build:.1f} CPU-s"
    results = [Result(SEARCH, "queries/s", ours, theirs, "exact search by FAISS", note=note)]
    rivals = {
        "usearch's graph": usearch(vectors, K),
        "hnswlib's graph": hnswlib(vectors, K),
        "rows of RaBitQ": rabitq(vectors, K, CELLS, TRAINED_ON),
    }
    for name, rival in rivals.items():
        results += _against(name, rival, mine, build, queries, exact)
    return [*results, _filtered(index, vectors, queries, rng)]


def _against(
    name: str, rival: Iterator[Built], mine: Search, build: float, queries: NDArray[np.float32], exact: NDArray[np.int64]
) -> list[Result]:
    """Compare the search and the build with those of a rival; one row without a baseline if its library is not installed."""
    try:
        tuned = tune(rival, queries, exact, RECALL, lambda search: _rate(search, queries))
    except NotInstalled as error:
        return [Result(SEARCH, "queries/s", _rate(mine, queries), None, name, note=str(error))]
    ours, theirs = _rates(mine, tuned.search, queries)
    note = f"{1e3 / theirs:.3f} ms a query, recall {tuned.recall:.4f}; {tuned.about}"
    built = f"{tuned.seconds:.1f} CPU-s, the index {build:.1f} CPU-s"
    return [
        Result(SEARCH, "queries/s", ours, theirs, name, note=note),
        Result(BUILD, "items/s", ITEMS / build, ITEMS / tuned.seconds, name, note=built),
    ]


def _filtered(index: ItemIndex, vectors: NDArray[np.float32], queries: NDArray[np.float32], rng: np.random.Generator) -> Result:
    """Compare the exact search of the items that pass a filter with an inverted file and a bitmap."""
    allowed = np.sort(rng.choice(ITEMS, round(FILTER * ITEMS), replace=False))
    inverted = faiss.index_factory(DIM, f"IVF{CELLS},SQ8", faiss.METRIC_INNER_PRODUCT)
    inverted.train(vectors[:TRAINED_ON])
    inverted.add(vectors)
    passes = np.zeros(ITEMS, np.bool_)
    passes[allowed] = True
    bits, filtered = np.packbits(passes, bitorder="little"), faiss.SearchParametersIVF()
    filtered.sel, filtered.nprobe = faiss.IDSelectorBitmap(bits), PROBES  # type: ignore[call-arg]

    def other(query: NDArray[np.float32]) -> NDArray[np.int64]:
        return inverted.search(query, K, params=filtered)[1]

    ours, theirs = _rates(lambda query: index.search(query, K, allowed).ids, other, queries)
    found = np.concatenate([other(queries[n : n + 1]) for n in range(QUERIES)])
    truth = allowed[np.argsort(-(queries @ vectors[allowed].T), axis=1)[:, :K]]
    note = f"{1e3 / ours:.3f} ms a query, exact; the baseline's recall is {overlap(found, truth):.3f}"
    name = f"Nearest {K} of the {FILTER:.0%} that pass a filter"
    return Result(name, "queries/s", ours, theirs, f"inverted file with a bitmap, {PROBES} cells", note=note)


def _points(rng: np.random.Generator, centres: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    points = centres[rng.integers(0, len(centres), count)] + 0.6 * rng.standard_normal((count, DIM), np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _rates(ours: Search, theirs: Search, queries: NDArray[np.float32]) -> tuple[float, float]:
    """Queries per CPU-second of both sides: the best of alternating rounds."""
    rounds = [(_rate(ours, queries), _rate(theirs, queries)) for _ in range(ROUNDS)]
    return max(mine for mine, _ in rounds), max(other for _, other in rounds)


def _rate(search: Search, queries: NDArray[np.float32]) -> float:
    """Queries per CPU-second, warm."""
    for n in range(20):
        search(queries[n : n + 1])
    began = time.process_time()
    for n in range(len(queries)):
        search(queries[n : n + 1])
    return len(queries) / (time.process_time() - began)
