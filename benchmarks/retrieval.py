"""Search of the 100 nearest of 200,000 items with 64 dimensions, one query at a time on one thread.

The vectors are simulated: 2,000 clusters, normalised to length 1. The baseline scores all items by FAISS's exact search. With
usearch or hnswlib installed (`pip install usearch hnswlib`), their graphs are measured in the same run, at the smallest search
width that reaches the same recall.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.result import Result
from ml.retrieval.index import ItemIndex, overlap

ITEMS, DIM, K, QUERIES, CLUSTERS = 200_000, 64, 100, 500, 2_000
FILTER, CELLS, PROBES = 0.01, 1024, 128
WIDTHS = (100, 128, 192, 256, 384, 512)

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


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
    found = np.concatenate([index.search(queries[n : n + 1], K).ids for n in range(QUERIES)])
    recall = overlap(found, exact)
    ours = _rate(lambda query: index.search(query, K).ids, queries)
    theirs = _rate(lambda query: flat.search(query, K)[1], queries[:100])
    note = f"{1e3 / ours:.3f} ms a query, recall {recall:.4f}, {index.probes} cells, built in {build:.1f} CPU-s"
    name = f"Nearest {K} of {ITEMS:,} items"
    results = [Result(name, "queries/s", ours, theirs, "exact search by FAISS", note=note)]
    for library, build_graph in (("usearch", _usearch), ("hnswlib", _hnswlib)):
        try:
            module = importlib.import_module(library if library != "usearch" else "usearch.index")
        except ImportError:
            results.append(Result(name, "queries/s", ours, None, f"{library}'s graph", note=f"{library} is not installed"))
            continue
        rate, about = _graph(build_graph(module, vectors), queries, exact, recall)
        results.append(Result(name, "queries/s", ours, rate, f"{library}'s graph", note=about))
    allowed = np.sort(rng.choice(ITEMS, round(FILTER * ITEMS), replace=False))
    mine = _rate(lambda query: index.search(query, K, allowed).ids, queries)
    inverted = faiss.index_factory(DIM, f"IVF{CELLS},SQ8", faiss.METRIC_INNER_PRODUCT)
    inverted.train(vectors[: 64 * CELLS])
    inverted.add(vectors)
    passes = np.zeros(ITEMS, np.bool_)
    passes[allowed] = True
    bits, filtered = np.packbits(passes, bitorder="little"), faiss.SearchParametersIVF()
    filtered.sel, filtered.nprobe = faiss.IDSelectorBitmap(bits), PROBES  # type: ignore[call-arg]
    other = _rate(lambda query: inverted.search(query, K, params=filtered)[1], queries)
    some = np.concatenate([inverted.search(queries[n : n + 1], K, params=filtered)[1] for n in range(QUERIES)])
    truth = allowed[np.argsort(-(queries @ vectors[allowed].T), axis=1)[:, :K]]
    note = f"{1e3 / mine:.3f} ms a query, exact; the baseline's recall is {overlap(some, truth):.3f}"
    name = f"Nearest {K} of the {FILTER:.0%} that pass a filter"
    return [*results, Result(name, "queries/s", mine, other, f"inverted file with a bitmap, {PROBES} cells", note=note)]


def _points(rng: np.random.Generator, centres: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    points = centres[rng.integers(0, len(centres), count)] + 0.6 * rng.standard_normal((count, DIM), np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _rate(search: Search, queries: NDArray[np.float32]) -> float:
    """Queries a CPU-second, warm."""
    for n in range(20):
        search(queries[n : n + 1])
    began = time.process_time()
    for n in range(len(queries)):
        search(queries[n : n + 1])
    return len(queries) / (time.process_time() - began)


def _graph(
    built: tuple[Callable[[int], Search], float], queries: NDArray[np.float32], exact: NDArray[np.int64], recall: float
) -> tuple[float, str]:
    search_of, seconds = built
    rate, found, width = 0.0, 0.0, 0
    for width in WIDTHS:
        search = search_of(width)
        found = overlap(np.concatenate([search(queries[n : n + 1]) for n in range(len(queries))]), exact)
        rate = _rate(search, queries)
        if found >= recall:
            break
    return rate, f"recall {found:.4f} at width {width}, built in {seconds:.1f} CPU-s"


def _usearch(module: Any, vectors: NDArray[np.float32]) -> tuple[Callable[[int], Search], float]:
    began = time.process_time()
    graph = module.Index(ndim=DIM, metric="ip", dtype="f16", connectivity=16, expansion_add=128)
    graph.add(np.arange(len(vectors)), vectors, threads=1)

    def search_of(width: int) -> Search:
        graph.expansion_search = width
        return lambda query: graph.search(query, K, threads=1).keys.reshape(len(query), -1).astype(np.int64)

    return search_of, time.process_time() - began


def _hnswlib(module: Any, vectors: NDArray[np.float32]) -> tuple[Callable[[int], Search], float]:
    began = time.process_time()
    graph = module.Index(space="ip", dim=DIM)
    graph.init_index(max_elements=len(vectors), M=16, ef_construction=128)
    graph.set_num_threads(1)
    graph.add_items(vectors, np.arange(len(vectors)))

    def search_of(width: int) -> Search:
        graph.set_ef(width)
        return lambda query: graph.knn_query(query, k=K)[0].astype(np.int64)

    return search_of, time.process_time() - began
