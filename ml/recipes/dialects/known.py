"""Parameters and metrics of other tools that have the meaning of a recipe key under another name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """What a parameter of another tool means here.

    Attributes:
        key: The recipe key.
        choices: The values of an integer parameter that is an index into a list, as text.
        position: Whether the values are positions in the schedule, in steps or epochs, and the key is a fraction of them.
        rate: Optimizer and batch size that the original's learning rates belong to, for messages; empty if they are comparable.
        refused: Why no recipe key can express the parameter; empty if one can.
    """

    key: str = ""
    choices: tuple[str, ...] = ()
    position: bool = False
    rate: str = ""
    refused: str = ""


# The advisor's lists of layers, without the 13 inputs of Criteo, the last bottom layer (the dimension) and the output of 1.
_TOPS = ("1024-1024-512-256", "512-512-256-128", "512-256-128", "512-256", "256-128", "128-64", "256", "128")
_BOTTOMS = ("512-256", "512-256", "256", "128")
_DECAY = (
    "decay ends with the day here, at the factor schedule.decay_to; fix or search schedule.decay_to instead, and leave "
    "this parameter out"
)
_DLRM = {
    "arch_sparse_feature_size": Known("model.embedding_dim"),
    "mlp_top_size": Known("model.top", choices=_TOPS),
    "mlp_bot_size": Known("model.bottom", choices=_BOTTOMS),
    "lamb_lr": Known("dense_optimizer.lr", rate="LAMB at a batch size of 262144"),
    "lr_num_warmup_steps": Known("schedule.warm_up", position=True),
    "lr_decay_start_step": Known("schedule.decay_start", position=True),
    "lr_num_decay_steps": Known(refused=_DECAY),
}
_DEEP = {
    "deep_learning_rate": Known("dense_optimizer.lr"),
    "deep_warmup_epochs": Known("schedule.warm_up", position=True),
    "deep_dropout": Known("model.dropout"),
    **{f"dnn_hidden_unit{layer + 1}": Known(f"model.deep.{layer}") for layer in range(8)},
}
_ALL = {
    "learning_rate": Known("dense_optimizer.lr"),
    "dropout": Known("model.dropout"),
    "dropout_prob": Known("model.dropout"),
    "embedding_dim": Known("model.embedding_dim"),
    "train_batch_size": Known("batch_size"),
    "weight_decay": Known("dense_optimizer.weight_decay"),
    "warmup_proportion": Known("schedule.warm_up"),
    "warmup_epochs": Known("schedule.warm_up", position=True),
}
_BY_KIND: Mapping[str, Mapping[str, Known]] = {
    "dlrm": _DLRM,
    "wide_deep": {**_DEEP, "linear_learning_rate": Known("model.wide_optimizer.lr")},
    "deepfm": _DEEP,
    "dcn_v2": _DEEP,
}
METRICS = {"accuracy": "auc", "auroc": "auc", "roc_auc": "auc", "logloss": "log_loss"}
"""Metrics by their names in other tools, in lower case. The advisor's `accuracy` is the AUC of the test split."""


def known_parameters(kind: str, names: Collection[str]) -> dict[str, Known]:
    """Returns the known parameters of a kind of model.

    Args:
        kind: Kind of the model, such as `dlrm`.
        names: Names of the file's parameters. Beside `lamb_lr`, the rate of the dense part, `learning_rate` is the tables'.
    """
    known = {**_ALL, **_BY_KIND.get(kind, {})}
    if kind == "dlrm" and "lamb_lr" in names:
        known["learning_rate"] = Known("table_optimizer.lr", rate="SGD at a batch size of 262144")
    return known
