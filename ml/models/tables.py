"""Construction of the tables of the sparse features, each of the kind that the recipe chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.fixed.compositional import Composition, CompositionalEmbeddingBags
from ml.embeddings.fixed.hashed import HashedEmbeddingBags
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.interface import TrainableBags
from ml.embeddings.mixed import MixedEmbeddingBags
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.rules import TableRules
from ml.models.crosses import cross_name
from ml.recipes.models import WideDeepRecipe
from ml.recipes.optimizers import TableOptimizer
from ml.recipes.recipe import Recipe
from ml.recipes.tables import CollisionlessTable, CompositionalTable, SharedTable
from ml.schema import FeatureSchema

Tables = Mapping[str, Sequence[str]]  # table name -> features that read it


def build_bags(recipe: Recipe, schema: FeatureSchema, features: Sequence[str] | None = None) -> EmbeddingBagCollectionInterface:
    """Build one table for each sparse feature, with the feature's name, except for features that share another one's table.

    Args:
        recipe: Kind, size and optimizer of each table.
        schema: The features of a batch.
        features: The sparse features to build tables for; by default all.

    Returns:
        A collection of one kind, or a mixed one.

    Raises:
        ValueError: A feature shares a table that does not exist.
    """
    chosen = schema.sparse if features is None else features
    by_kind: dict[str, dict[str, list[str]]] = {}
    for feature in chosen:
        table = recipe.tables.of(feature)
        if not isinstance(table, SharedTable):
            by_kind.setdefault(table.kind, {})[feature] = [feature]
    for feature in chosen:
        table = recipe.tables.of(feature)
        if isinstance(table, SharedTable):
            if table.of not in by_kind.get("collisionless", {}):
                raise ValueError(f"recipe: tables.features.{feature}.of: {table.of!r} has no collisionless table")
            by_kind["collisionless"][table.of].append(feature)
    kinds = {kind: KINDS[kind](recipe, tables) for kind, tables in by_kind.items()}
    return next(iter(kinds.values())) if len(kinds) == 1 else MixedEmbeddingBags(kinds)


def build_wide(recipe: Recipe, chosen: WideDeepRecipe, schema: FeatureSchema) -> TrainableBags:
    """Build the tables of Wide & Deep's linear part: one weight per id, zero at first.

    If the table of a feature in the recipe's `tables` is collisionless, its rules of admission and expiry apply to this table
    too. Crossed features follow the rules of the default table.

    Args:
        recipe: As for `build_bags`.
        chosen: The model section of the recipe, with its crosses and the optimizer of these tables.
        schema: The features of a batch.

    Returns:
        Tables named `wide.<feature>`, for every sparse feature and every cross.

    Raises:
        ValueError: A cross names a feature that is not a single-valued sparse feature.
    """
    if wrong := {name for pair in chosen.crosses for name in pair} - set(schema.single):
        raise ValueError(
            f"recipe: model.crosses: {sorted(wrong)} not among the single-valued sparse features {list(schema.single)}"
        )
    features = [*schema.sparse, *map(cross_name, chosen.crosses)]
    configs = [
        EmbeddingBagConfig(
            name=f"wide.{feature}", embedding_dim=1, num_embeddings=1, feature_names=[feature], pooling=PoolingType.MEAN
        )
        for feature in features
    ]
    rules = {}
    for feature, config in zip(features, configs, strict=True):
        table = recipe.tables.of(feature)
        rules[config.name] = _rules(config.name, table) if isinstance(table, CollisionlessTable) else TableRules(config.name)
    optimizer = chosen.wide_optimizer
    return CollisionlessEmbeddingBags(
        configs, lr=optimizer.lr, init_scale=0.0, optimizer=_row_optimizer(recipe, optimizer), rules=rules, seed=recipe.seed
    )


def _config(recipe: Recipe, feature: str, readers: Sequence[str]) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=feature,
        embedding_dim=recipe.model.embedding_dim,
        num_embeddings=getattr(recipe.tables.of(feature), "rows", 1),
        feature_names=list(readers),
        pooling=PoolingType.MEAN,
    )


def _accumulator(recipe: Recipe, optimizer: TableOptimizer) -> float:
    """Scale the accumulator to gradients of a mean over B rows, in which a row's gradient has the weight 1/B."""
    return optimizer.initial_accumulator / recipe.batch_size**2


def _row_optimizer(recipe: Recipe, optimizer: TableOptimizer) -> RowOptimizer:
    """Scale FTRL's constants, which its paper gives for gradients of one row, to gradients of a mean over B rows."""
    scales = {"beta": 1 / recipe.batch_size, "l1": optimizer.lr / recipe.batch_size, "l2": optimizer.lr / recipe.batch_size}
    scaled = {name: getattr(optimizer, name) * scale for name, scale in scales.items()}
    constants = optimizer.model_dump(exclude={"lr", "initial_accumulator", *scaled})
    return RowOptimizer(initial_accumulator=_accumulator(recipe, optimizer), **constants, **scaled)


def _rules(name: str, table: CollisionlessTable) -> TableRules:
    return TableRules(name, **table.model_dump(exclude={"kind"}))


def _collisionless(recipe: Recipe, tables: Tables) -> TrainableBags:
    optimizer, rules = recipe.table_optimizer, {}
    for feature in tables:
        table = recipe.tables.of(feature)
        assert isinstance(table, CollisionlessTable)
        rules[feature] = _rules(feature, table)
    return CollisionlessEmbeddingBags(
        [_config(recipe, name, readers) for name, readers in tables.items()],
        lr=optimizer.lr,
        init_scale=recipe.tables.init_scale,
        optimizer=_row_optimizer(recipe, optimizer),
        rules=rules,
        seed=recipe.seed,
    )


def _fixed(cls: type[HashedEmbeddingBags] | type[StaticEmbeddingBags]) -> Callable[[Recipe, Tables], TrainableBags]:
    def build(recipe: Recipe, tables: Tables) -> TrainableBags:
        return cls(
            [_config(recipe, name, readers) for name, readers in tables.items()],
            init_scale=recipe.tables.init_scale,
            lr=recipe.table_optimizer.lr,
            eps=recipe.table_optimizer.eps,
            initial_accumulator=_accumulator(recipe, recipe.table_optimizer),
            seed=recipe.seed,
        )

    return build


def _compositional(recipe: Recipe, tables: Tables) -> TrainableBags:
    compositions = {}
    for feature in tables:
        table = recipe.tables.of(feature)
        assert isinstance(table, CompositionalTable)
        compositions[feature] = Composition(table.partitions, table.operation, table.dim)
    return CompositionalEmbeddingBags(
        [_config(recipe, name, readers) for name, readers in tables.items()],
        compositions,
        init_scale=recipe.tables.init_scale,
        lr=recipe.table_optimizer.lr,
        eps=recipe.table_optimizer.eps,
        initial_accumulator=_accumulator(recipe, recipe.table_optimizer),
        seed=recipe.seed,
    )


KINDS: dict[str, Callable[[Recipe, Tables], TrainableBags]] = {
    "collisionless": _collisionless,
    "hashed": _fixed(HashedEmbeddingBags),
    "static": _fixed(StaticEmbeddingBags),
    "compositional": _compositional,
}
