"""MovieLens 1M (Harper and Konstan, 2015) as arrays: ratings with what is known of users and movies. No clock, so no days."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.features.hashing import hash_values

FILES = ("ratings.csv.gz", "users.dat", "movies.dat")
SINGLE = ("user", "movie", "gender", "age", "occupation")
KEYS = (*SINGLE, "genres")
LIKED = 3.5  # stars


@dataclass(frozen=True)
class Ratings:
    """single: int64 [N, 5], hashed ids of SINGLE. genres: int64 [N, 6], hashed, 0 beyond a movie's own. label: float32 [N]."""

    single: NDArray[np.int64]
    genres: NDArray[np.int64]
    label: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: NDArray[np.int64]) -> Ratings:
        return Ratings(self.single[rows], self.genres[rows], self.label[rows])

    def batch(self, rows: NDArray[np.int64]) -> tuple[KeyedJaggedTensor, torch.Tensor]:
        """Features and labels, float32 [B]."""
        genres = self.genres[rows]
        held = genres != 0
        lengths = np.concatenate([np.ones(len(SINGLE) * len(rows), np.int32), held.sum(1, dtype=np.int32)])
        values = np.concatenate([np.ascontiguousarray(self.single[rows].T).reshape(-1), genres[held]])
        sparse = KeyedJaggedTensor(list(KEYS), torch.from_numpy(values), lengths=torch.from_numpy(lengths), stride=len(rows))
        return sparse, torch.from_numpy(self.label[rows])


def read_ratings(folder: Path) -> Ratings:
    """All 1,000,209 ratings. Raises `FileNotFoundError` that says what to put where."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder}: {', '.join(missing)} not there; put the files of MovieLens 1M into this folder")
    ratings = pd.read_csv(folder / "ratings.csv.gz")
    users = _read(folder / "users.dat", ["user", "gender", "age", "occupation", "zip"])
    movies = _read(folder / "movies.dat", ["movie", "title", "genres"])
    whole = ratings.merge(users, on="user", validate="many_to_one").merge(movies, on="movie", validate="many_to_one")
    single = np.stack([_hashed(name, whole[name].to_numpy()) for name in SINGLE], 1)
    split = movies["genres"].str.split("|", expand=True)
    genres = np.stack(
        [np.where(column.isna(), 0, _hashed("genres", column.fillna("").to_numpy())) for _, column in split.items()], 1
    )
    at = pd.Index(movies["movie"]).get_indexer(pd.Index(whole["movie"]))
    return Ratings(single, genres[at], (whole["rating"] >= LIKED).to_numpy(np.float32))


def _hashed(feature: str, values: NDArray) -> NDArray[np.int64]:
    return np.asarray(hash_values(feature, pa.array(values)))


def _read(path: Path, names: list[str]) -> pd.DataFrame:
    return pd.read_csv(path, sep="::", engine="python", names=names, encoding="latin-1")
