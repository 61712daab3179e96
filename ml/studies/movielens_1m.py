"""MovieLens 1M (Harper and Konstan, 2015) as arrays: ratings joined with attributes of users and movies.

This copy of the data has no times, so it cannot be split into days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.features.hashing import hash_values

FILES = ("ratings.csv.gz", "users.dat", "movies.dat")
SINGLE = ("user", "movie", "gender", "age", "occupation")
ALL = (*SINGLE, "zip", "year")  # year: of release
LIKED = 3.5  # stars


@dataclass(frozen=True)
class Ratings:
    """N ratings.

    Attributes:
        names: Names of the S features with one id per rating.
        single: int64 [N, S], hashed ids of these features.
        genres: int64 [N, 6], hashed; 0 pads movies with fewer genres.
        stars: int8 [N], 1 to 5.
    """

    names: tuple[str, ...]
    single: NDArray[np.int64]
    genres: NDArray[np.int64]
    stars: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.stars)

    @property
    def label(self) -> NDArray[np.float32]:
        """Whether the movie was liked, float32 [N], 0 or 1."""
        return (self.stars >= LIKED).astype(np.float32)

    def take(self, rows: NDArray[np.int64]) -> Ratings:
        """Select rows, int64 [M], in their order."""
        return replace(self, single=self.single[rows], genres=self.genres[rows], stars=self.stars[rows])

    def batches(self, rows: NDArray[np.int64], size: int) -> Iterator[Batch]:
        """Iterate over batches of `size` rows, int64 [M], in their order."""
        return (self.batch(rows[at : at + size]) for at in range(0, len(rows), size))

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Create a batch of the rows, int64 [B], with the keys `names` and `genres`, at event time 0."""
        genres = self.genres[rows]
        held = genres != 0
        lengths = np.concatenate([np.ones(len(self.names) * len(rows), np.int32), held.sum(1, dtype=np.int32)])
        values = np.concatenate([np.ascontiguousarray(self.single[rows].T).reshape(-1), genres[held]])
        sparse = KeyedJaggedTensor(
            [*self.names, "genres"], torch.from_numpy(values), lengths=torch.from_numpy(lengths), stride=len(rows)
        )
        labels = torch.from_numpy((self.stars[rows] >= LIKED).astype(np.float32))
        return Batch(
            torch.empty(len(rows), 0), sparse, labels, torch.ones(len(rows)), torch.zeros(len(rows), dtype=torch.int64)
        )


def read_ratings(folder: Path, names: Sequence[str] = SINGLE) -> Ratings:
    """Read all 1,000,209 ratings.

    Args:
        folder: Folder with the files of MovieLens 1M (`FILES`).
        names: The features to read, a subset of `ALL`.

    Returns:
        The ratings in the order of the file.

    Raises:
        FileNotFoundError: A file is missing; the message names it.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder}: {', '.join(missing)} not found; put the files of MovieLens 1M into this folder")
    ratings = pd.read_csv(folder / "ratings.csv.gz")
    users = _read(folder / "users.dat", ["user", "gender", "age", "occupation", "zip"])
    movies = _read(folder / "movies.dat", ["movie", "title", "genres"])
    whole = ratings.merge(users, on="user", validate="many_to_one").merge(movies, on="movie", validate="many_to_one")
    whole["year"] = whole["title"].str[-5:-1]
    single = np.stack([_hashed(name, whole[name].to_numpy()) for name in names], 1)
    split = movies["genres"].str.split("|", expand=True)
    genres = np.stack(
        [np.where(column.isna(), 0, _hashed("genres", column.fillna("").to_numpy())) for _, column in split.items()], 1
    )
    at = pd.Index(movies["movie"]).get_indexer(pd.Index(whole["movie"]))
    return Ratings(tuple(names), single, genres[at], whole["rating"].to_numpy(np.int8))


def _hashed(feature: str, values: NDArray) -> NDArray[np.int64]:
    return np.asarray(hash_values(feature, pa.array(values)))


def _read(path: Path, names: list[str]) -> pd.DataFrame:
    return pd.read_csv(path, sep="::", engine="python", names=names, encoding="latin-1")
