"""Indexes that compete with `ml.retrieval.index`: graphs of usearch and hnswlib, and an inverted file with rows of RaBitQ.

Each is tuned as its users would tune it: of the settings that reach the recall, the fastest one counts.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from ml.retrieval.index import overlap

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""Finds the ids of the nearest items of queries, float32 [B, E] to int64 [B, k]."""

CONNECTIVITY, EXPANSION_ADD = (8, 16), 128
EXPANSIONS = (100, 112, 128, 160, 192, 256, 384, 512)
BITS, PROBES, RESCORED = (1, 4), (16, 32, 64, 128, 256), (2, 4)


class NotInstalled(Exception):
    """The library of a rival is not installed."""


@dataclass(frozen=True)
class Built:
    """A built index with settings that a search can use.

    Attributes:
        name: The setting with which it was built.
        seconds: CPU-seconds of the build.
        settings: Settings of a search by name, from the least work to the most.
    """

    name: str
    seconds: float
    settings: Sequence[tuple[str, Search]]


@dataclass(frozen=True)
class Tuned:
    """A rival at one setting.

    Attributes:
        search: Its search.
        recall: Share of the exact results that it finds.
        about: The setting.
        seconds: CPU-seconds of the build.
    """

    search: Search
    recall: float
    about: str
    seconds: float


def tune(
    rival: Iterator[Built],
    queries: NDArray[np.float32],
    exact: NDArray[np.int64],
    recall: float,
    rate: Callable[[Search], float],
) -> Tuned:
    """Choose the fastest setting of a rival that reaches a recall, or the one with the highest recall if none does.

    Args:
        rival: The built indexes of a rival.
        queries: float32 [Q, E].
        exact: int64 [Q, k], the nearest items.
        recall: The recall to reach.
        rate: Measures a search in queries per second.

    Raises:
        NotInstalled: The library is not installed.
    """
    reached: list[tuple[float, Tuned]] = []
    best: Tuned | None = None
    for built in rival:
        for name, search in built.settings:
            found = overlap(np.concatenate([search(queries[n : n + 1]) for n in range(len(queries))]), exact)
            one = Tuned(search, found, f"{built.name}, {name}", built.seconds)
            if best is None or found > best.recall:
                best = one
            if found >= recall:
                reached.append((rate(search), one))
                break  # further settings are slower
    assert best is not None
    return max(reached, key=lambda pair: pair[0])[1] if reached else best


def usearch(vectors: NDArray[np.float32], k: int) -> Iterator[Built]:
    """Graphs of usearch with rows of bfloat16. Raises `NotInstalled`."""
    module = _require("usearch", "usearch.index")
    for connectivity in CONNECTIVITY:
        began = time.process_time()
        graph = module.Index(
            ndim=vectors.shape[1], metric="ip", dtype="bf16", connectivity=connectivity, expansion_add=EXPANSION_ADD
        )
        graph.add(np.arange(len(vectors)), vectors, threads=1)
        seconds = time.process_time() - began

        def search(queries: NDArray[np.float32], graph: Any = graph, expansion: int = 0) -> NDArray[np.int64]:
            graph.expansion_search = expansion
            return graph.search(queries, k, threads=1).keys.reshape(len(queries), -1).astype(np.int64)

        yield Built(f"{connectivity} neighbours", seconds, _by_expansion(search))


def hnswlib(vectors: NDArray[np.float32], k: int) -> Iterator[Built]:
    """Graphs of hnswlib. Raises `NotInstalled`."""
    module = _require("hnswlib", "hnswlib")
    for connectivity in CONNECTIVITY:
        began = time.process_time()
        graph = module.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(max_elements=len(vectors), M=connectivity, ef_construction=EXPANSION_ADD)
        graph.set_num_threads(1)
        graph.add_items(vectors, np.arange(len(vectors)))
        seconds = time.process_time() - began

        def search(queries: NDArray[np.float32], graph: Any = graph, expansion: int = 0) -> NDArray[np.int64]:
            graph.set_ef(expansion)
            return graph.knn_query(queries, k=k)[0].astype(np.int64)

        yield Built(f"{connectivity} neighbours", seconds, _by_expansion(search))


def rabitq(vectors: NDArray[np.float32], k: int, cells: int, trained_on: int) -> Iterator[Built]:
    """Inverted files with rows of RaBitQ in place of rows of 8 bits. Their best results are scored exactly.

    Args:
        vectors: float32 [L, E].
        k: Number of results.
        cells: Number of cells.
        trained_on: Number of vectors for k-means.
    """
    for bits in BITS:
        began = time.process_time()
        name = f"IVF{cells},RaBitQ{bits if bits > 1 else ''}"
        inverted = cast(faiss.IndexIVF, faiss.index_factory(vectors.shape[1], name, faiss.METRIC_INNER_PRODUCT))
        inverted.train(vectors[:trained_on])
        inverted.add(vectors)
        seconds = time.process_time() - began

        def search(
            queries: NDArray[np.float32], inverted: faiss.IndexIVF = inverted, probes: int = 0, times: int = 0
        ) -> NDArray[np.int64]:
            inverted.nprobe = probes
            _, at = inverted.search(queries, times * k)
            scores = np.einsum("be,bne->bn", queries, vectors[at])
            scores[at < 0] = -np.inf
            return np.take_along_axis(at, np.argsort(-scores, axis=1, kind="stable")[:, :k], 1)

        for times in RESCORED:
            settings = [(f"{probes} cells", _with(search, probes=probes, times=times)) for probes in PROBES]
            yield Built(f"{inverted.code_size} bytes a row, {times * k} results scored exactly", seconds, settings)


def _by_expansion(search: Callable[..., NDArray[np.int64]]) -> list[tuple[str, Search]]:
    return [(f"expansion {expansion}", _with(search, expansion=expansion)) for expansion in EXPANSIONS]


def _with(search: Callable[..., NDArray[np.int64]], **setting: int) -> Search:
    return lambda queries: search(queries, **setting)


def _require(library: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotInstalled(f"{library}: not installed") from error
