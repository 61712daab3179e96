"""From a recipe and the names of the sparse features to their tables, each of the kind that the recipe chose for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface

from ml.embeddings.bags import TrainableBags
from ml.embeddings.collisionless import CollisionlessEmbeddingBags
from ml.embeddings.compositional import Composition, CompositionalEmbeddingBags
from ml.embeddings.hashed import HashedEmbeddingBags
from ml.embeddings.mixed import MixedEmbeddingBags
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.partitions import partitions_for
from ml.embeddings.rules import TableRules
from ml.embeddings.static import StaticEmbeddingBags
from ml.features.schema import FeatureSchema
from ml.training.recipe import CollisionlessTable, CompositionalTable, Recipe


def build_bags(recipe: Recipe, schema: FeatureSchema) -> EmbeddingBagCollectionInterface:
    """One table per sparse feature, named as it. Raises `ValueError` where the recipe speaks of a feature that is not there."""
    if unknown := set(recipe.tables.features) - set(schema.sparse):
        raise ValueError(f"recipe: tables.features: {sorted(unknown)} not among the sparse features {list(schema.sparse)}")
    by_kind: dict[str, list[str]] = {}
    for feature in schema.sparse:
        by_kind.setdefault(recipe.tables.of(feature).kind, []).append(feature)
    kinds = {kind: KINDS[kind](recipe, features) for kind, features in by_kind.items()}
    return next(iter(kinds.values())) if len(kinds) == 1 else MixedEmbeddingBags(kinds)


def _config(recipe: Recipe, feature: str) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=feature,
        embedding_dim=recipe.model.embedding_dim,
        num_embeddings=getattr(recipe.tables.of(feature), "rows", 1),
        feature_names=[feature],
        pooling=PoolingType.MEAN,
    )


def _accumulator(recipe: Recipe) -> float:
    """A row's gradient in a mean over B examples is one example's over B."""
    return recipe.table_optimizer.initial_accumulator / recipe.batch_size**2


def _collisionless(recipe: Recipe, features: Sequence[str]) -> TrainableBags:
    optimizer, rules = recipe.table_optimizer, {}
    for feature in features:
        table = recipe.tables.of(feature)
        assert isinstance(table, CollisionlessTable)
        rules[feature] = TableRules(feature, **table.model_dump(exclude={"kind"}))
    constants = optimizer.model_dump(exclude={"lr", "initial_accumulator"})
    constants |= {name: constants[name] * optimizer.lr for name in ("l1", "l2")}  # as FTRL's paper has them
    return CollisionlessEmbeddingBags(
        [_config(recipe, feature) for feature in features],
        lr=optimizer.lr,
        init_scale=recipe.tables.init_scale,
        optimizer=RowOptimizer(initial_accumulator=_accumulator(recipe), **constants),
        rules=rules,
        seed=recipe.seed,
    )


def _fixed(cls: type[HashedEmbeddingBags] | type[StaticEmbeddingBags]) -> Callable[[Recipe, Sequence[str]], TrainableBags]:
    def build(recipe: Recipe, features: Sequence[str]) -> TrainableBags:
        return cls(
            [_config(recipe, feature) for feature in features],
            init_scale=recipe.tables.init_scale,
            lr=recipe.table_optimizer.lr,
            eps=recipe.table_optimizer.eps,
            initial_accumulator=_accumulator(recipe),
            seed=recipe.seed,
        )

    return build


def _compositional(recipe: Recipe, features: Sequence[str]) -> TrainableBags:
    compositions = {}
    for feature in features:
        table = recipe.tables.of(feature)
        assert isinstance(table, CompositionalTable)
        partitions = partitions_for(table.family, table.universe, table.rows, table.parts)
        compositions[feature] = Composition(partitions, table.operation, table.dim)
    return CompositionalEmbeddingBags(
        [_config(recipe, feature) for feature in features],
        compositions,
        init_scale=recipe.tables.init_scale,
        lr=recipe.table_optimizer.lr,
        eps=recipe.table_optimizer.eps,
        initial_accumulator=_accumulator(recipe),
        seed=recipe.seed,
    )


KINDS: dict[str, Callable[[Recipe, Sequence[str]], TrainableBags]] = {
    "collisionless": _collisionless,
    "hashed": _fixed(HashedEmbeddingBags),
    "static": _fixed(StaticEmbeddingBags),
    "compositional": _compositional,
}
