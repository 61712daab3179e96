"""Catalog keys of a stream whose events are records of Kafka. `ml.joiner.kafka` reads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ml.catalog.strict import Strict, fault

if TYPE_CHECKING:
    from ml.catalog.reading import Source

_TOPIC = r"^[A-Za-z0-9._-]{1,249}$"
_OWN_OPTIONS = ("kafka.bootstrap.servers", "kafka.group.id")
_VARIABLE = re.compile(r"^\$[A-Za-z_][A-Za-z0-9_]*$")


class Kafka(Strict):
    """Brokers and topics of the live join. The values of records are lines in the formats of the two sources."""

    servers: str = Field(min_length=1, description="Brokers, `host:port`, separated by commas.")
    impressions: str = Field(pattern=_TOPIC, description="Topic of the impressions.")
    actions: str = Field(pattern=_TOPIC, description="Topic of the actions.")
    starting: Literal["earliest", "latest"] = Field(
        default="earliest", description="Where the first start begins. Later starts continue at the offsets of the checkpoint."
    )
    options: dict[str, str] = Field(
        default={},
        description="Options of the consumer, such as `kafka.security.protocol: SASL_SSL`. A value `$NAME` is read from the "
        "environment variable NAME, so that the catalog holds no password.",
    )


def check_kafka(kafka: Kafka, impressions: Source, actions: Source) -> None:
    """Checks that both logs can be read from Kafka. Raises a fault that names the key."""
    if kafka.impressions == kafka.actions:
        raise fault("actions.kafka.actions", f"{kafka.actions!r} is also the topic of the impressions; each log needs its own")
    for key, source in (("source", impressions), ("actions.source", actions)):
        if source.format == "parquet":
            raise fault(f"{key}.format", "a record of Kafka is one line: expected jsonl, csv or tsv with actions.kafka")
        if source.header:
            raise fault(f"{key}.header", "records of Kafka have no header: remove actions.kafka, or list the columns in order")
    for name, value in kafka.options.items():
        if not name.startswith("kafka."):
            raise fault(f"actions.kafka.options.{name}", "expected an option of the consumer, whose name begins with `kafka.`")
        if name in _OWN_OPTIONS:
            raise fault(f"actions.kafka.options.{name}", "is set by Evergreen; the brokers are those of actions.kafka.servers")
        if value.startswith("$") and not _VARIABLE.match(value):
            raise fault(
                f"actions.kafka.options.{name}",
                "expected the name of an environment variable after $",
            )
