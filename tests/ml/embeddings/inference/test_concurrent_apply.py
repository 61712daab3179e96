"""Look-ups while deltas are applied: no row of another id, no row in part, no row of a version that is not applied, no wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.delta import Delta, TableDelta
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.inference import growing_memory
from ml.embeddings.inference.epochs import ReadEpochs
from ml.embeddings.inference.formats import Format
from ml.embeddings.inference.pack import pack, repack, unpack
from ml.embeddings.inference.quantise import quantise_bags
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.inference.row_map import RowMap

DIM, UNIVERSE = 8, 6_000
NONE = torch.empty(0, dtype=torch.int64)


def weights_of(ids: torch.Tensor, version: int) -> torch.Tensor:
    """Return rows whose weights all tell the id and the version, float32 [N, D]."""
    return (ids * 128 + version + 1).float().unsqueeze(1).expand(-1, DIM).contiguous()


def delta_of(ids: torch.Tensor, version: int, deleted: torch.Tensor = NONE, seen: bool = True) -> Delta:
    table = TableDelta(ids, weights_of(ids, version), torch.zeros_like(ids) if seen else None, deleted)
    return Delta(version - 1, version, 0, {"t": table})


def collisionless() -> QuantisedBags:
    config = EmbeddingBagConfig(name="t", embedding_dim=DIM, num_embeddings=1, feature_names=["t"])
    return quantise_bags(CollisionlessEmbeddingBags([config], lr=0.1, init_scale=0.3), "float32")[0]


def static() -> QuantisedBags:
    config = EmbeddingBagConfig(name="t", embedding_dim=DIM, num_embeddings=UNIVERSE, feature_names=["t"])
    bags = StaticEmbeddingBags([config], init_scale=0.1, lr=0.1, eps=1e-8, initial_accumulator=0.0, seed=0)
    bags.weights()["t.weight"].copy_(weights_of(torch.arange(UNIVERSE), 0))
    return quantise_bags(bags, "float32")[0]


def read(bags: QuantisedBags, ids: torch.Tensor) -> torch.Tensor:
    """Read the rows of ids, float32 [N, D]."""
    return bags(KeyedJaggedTensor(["t"], ids, lengths=torch.ones_like(ids))).values()


@contextmanager
def readers(read_once: Callable[[np.random.Generator], None], threads: int = 2) -> Iterator[list[BaseException]]:
    """Call a function again and again in several threads. What it raises is in the list, and ends its thread."""
    done, faults = Event(), list[BaseException]()

    def loop(seed: int) -> None:
        generator = np.random.default_rng(seed)
        try:
            while not done.is_set():
                read_once(generator)
        except BaseException as error:
            faults.append(error)

    running = [Thread(target=loop, args=(seed,)) for seed in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield faults
    finally:
        done.set()
        for thread in running:
            thread.join()


@pytest.mark.parametrize("build", [collisionless, static])
def test_a_reader_sees_whole_rows_of_its_ids_from_before_or_after_the_delta(
    build: Callable[[], QuantisedBags], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are inserted, updated, deleted and admitted again, rows are reused, and the table outgrows its room."""
    monkeypatch.setattr(growing_memory, "_ROOMS", ((2, 1 << 16),))
    monkeypatch.setattr("ml.embeddings.inference.serving_rows._LEAST_CHUNK", 64)
    bags, versions = build(), [0, 0]  # applied completely, and begun
    fixed = bags.kind == "static"

    def read_once(generator: np.random.Generator) -> None:
        ids = torch.from_numpy(generator.choice(UNIVERSE, 300))
        earliest = versions[0]
        rows = read(bags, ids)
        latest = versions[1]
        assert (rows == rows[:, :1]).all(), "a row in part"
        found = rows[:, 0].long()
        present = found > 0
        assert present.all() or not fixed
        assert ((found - 1) // 128 == ids)[present].all(), "a row of another id"
        version = (found - 1)[present] % 128
        assert (version <= latest).all() and (version >= history[earliest][ids[present]]).all(), "a row of a wrong version"

    history = {0: torch.zeros(UNIVERSE, dtype=torch.int64)}  # lowest version of each id at each version
    generator = np.random.default_rng(3)
    with readers(read_once) as faults:
        for version in range(1, 40):
            order = torch.from_numpy(generator.permutation(UNIVERSE))
            updated, deleted = order[: UNIVERSE // 3], NONE if fixed else order[UNIVERSE // 4 : UNIVERSE // 2]
            history[version] = history[version - 1].clone()
            history[version][updated] = version
            versions[1] = version
            assert bags.apply_delta(delta_of(updated, version, deleted, seen=not fixed))
            versions[0] = version
            alive = torch.cat((updated, deleted)).unique()
            rows = read(bags, alive)[:, 0].long()
            assert torch.equal(rows > 0, torch.isin(alive, updated)), "a deleted id that was admitted again has a row"
            assert (rows[rows > 0] == weights_of(updated.sort().values, version)[:, 0]).all()
    assert not faults, faults


def test_an_id_that_is_deleted_and_admitted_again_in_one_delta_never_loses_its_row() -> None:
    bags, ids = collisionless(), torch.arange(5)
    bags.apply_delta(delta_of(ids, 1))
    found = read_during(bags, delta_of(ids, 2, deleted=ids), ids)
    assert (found > 0).all() and torch.equal(read(bags, ids), weights_of(ids, 2))


def read_during(bags: QuantisedBags, delta: Delta, ids: torch.Tensor) -> torch.Tensor:
    """Read rows again and again during a delta, float32 [reads, N, D]."""
    found: list[torch.Tensor] = [read(bags, ids)]
    with readers(lambda _: found.append(read(bags, ids)), threads=1) as faults:
        bags.apply_delta(delta)
    assert not faults
    return torch.stack(found)


def test_readers_do_not_wait_for_a_writer_that_waits_for_readers() -> None:
    epochs, entered, leave, waited = ReadEpochs(), Event(), Event(), Event()

    def slow() -> None:
        with epochs.read():
            entered.set()
            leave.wait(10)

    def write() -> None:
        epochs.wait_for_readers()
        waited.set()

    threads = [Thread(target=slow), Thread(target=write)]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    time.sleep(0.05)
    begin = time.perf_counter()
    with epochs.read():
        assert time.perf_counter() - begin < 1 and not waited.is_set()
    assert not waited.is_set(), "the first reader has not left"
    leave.set()
    for thread in threads:
        thread.join(10)
    assert waited.is_set() and epochs.readers == 0


def test_the_memory_of_a_delta_is_a_small_part_of_the_tables() -> None:
    """A fifth of the rows is replaced; the free rows that this needs are at most a 64th of the table, and are used again."""
    bags = collisionless()
    bags.apply_delta(delta_of(torch.arange(200_000), 1))
    bags.apply_delta(delta_of(torch.arange(3_125), 2))
    before = bags.nbytes
    bags.apply_delta(delta_of(torch.arange(40_000), 3))
    assert bags.nbytes <= before * 1.02
    again = bags.nbytes
    bags.apply_delta(delta_of(torch.arange(100_000, 140_000), 4))
    assert bags.nbytes == again


@pytest.mark.parametrize("build", [collisionless, static])
def test_a_reverted_delta_leaves_the_rows_and_the_step_from_before(build: Callable[[], QuantisedBags]) -> None:
    bags = build()
    seen = bags.kind == "collisionless"
    bags.apply_delta(delta_of(torch.arange(100, 300), 1, seen=seen))
    before = bags.tensors()
    deleted = torch.arange(150, 160) if seen else NONE
    first = bags.apply_undoable(delta_of(torch.cat((torch.arange(100, 120), torch.arange(400, 900))), 2, deleted, seen))
    second = bags.apply_undoable(delta_of(torch.arange(110, 410), 3, seen=seen))
    assert first is not None and second is not None and bags.apply_undoable(delta_of(NONE, 3, seen=seen)) is None
    with pytest.raises(ValueError, match="the tables are at step 3, step 2 was to be reverted"):
        bags.revert(first)
    bags.revert(second)
    bags.revert(first)
    after = bags.tensors()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert bags.apply_delta(delta_of(torch.arange(100, 120), 2, seen=seen)), "the same delta applies again"


@pytest.mark.parametrize("format", ["float16", "int8"])
def test_packed_rows_of_a_delta_keep_their_bits_in_a_table_of_the_same_format(format: Format) -> None:
    weights = 5 + 0.01 * torch.rand(50, DIM, generator=torch.Generator().manual_seed(0))
    packed = pack(weights, format)
    if format == "int8":
        assert not torch.equal(pack(unpack(packed, "int8"), "int8"), packed), "packing twice loses more"
    config = EmbeddingBagConfig(name="t", embedding_dim=DIM, num_embeddings=1, feature_names=["t"])
    bags, _ = quantise_bags(CollisionlessEmbeddingBags([config], lr=0.1, init_scale=0.3), format)
    ids = torch.arange(50)
    bags.apply_delta(Delta(0, 1, 0, {"t": TableDelta(ids, packed, ids, NONE, format)}))
    assert torch.equal(bags.tensors()["t.rows"], packed)
    exact, _ = quantise_bags(CollisionlessEmbeddingBags([config], lr=0.1, init_scale=0.3), "float32")
    exact.apply_delta(Delta(0, 1, 0, {"t": TableDelta(ids, packed, ids, NONE, format)}))
    assert torch.equal(read(exact, ids), unpack(packed, format))
    assert torch.equal(repack(weights, "float32", format), packed)


def test_a_map_agrees_with_a_dict_under_random_changes() -> None:
    """Slots of deleted keys are left behind and removed again, in few segments' worth of keys."""
    rows, wanted, generator = RowMap(), dict[tuple[int, int], int](), np.random.default_rng(0)
    for change in range(200):
        table = int(generator.integers(3))
        ids = generator.choice(np.array([*range(2_000), -1, -(2**63), 2**63 - 1]), 400, replace=False)
        before = [wanted.get((table, int(id)), -1) for id in ids]
        if change % 2:
            assert rows.remove(table, ids).tolist() == before
            for id in ids:
                wanted.pop((table, int(id)), None)
        else:
            new = generator.integers(0, 2**40, 400)
            assert rows.assign(table, ids, new).tolist() == before
            wanted |= {(table, int(id)): int(row) for id, row in zip(ids, new, strict=True)}
        assert len(rows) == len(wanted)
    for table in range(3):
        ids, found = rows.items(table)
        assert dict(zip(ids.tolist(), found.tolist(), strict=True)) == {k[1]: v for k, v in wanted.items() if k[0] == table}
    assert rows.nbytes < 16 * 8 * 6_000, "deleted keys do not accumulate"
