"""The first sentences of a report on a log of positives alone: how well models rank all live items.

Sampled negatives are mostly items that nobody wants at the time, so an AUC against them flatters: popularity alone has a high
one. Rankings among all live items say what a user would see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.evaluation.compare import Estimate
from ml.evaluation.ranking.metrics import HEADLINE


def headline_model(metrics: Mapping[str, Any]) -> str | None:
    """Return the model whose ranking is the headline: the first that ranks all items. None if the AUC is the headline."""
    ranking = metrics["ranking"]
    if ranking is None or metrics["sampling"] is None:
        return None
    return next((name for name, of in ranking["models"].items() if of[HEADLINE] is not None), None)


def best_source(ranking: Mapping[str, Any]) -> str:
    """Return the name of the source with the highest recall@20."""
    return max(ranking["sources"], key=lambda name: ranking["sources"][name][HEADLINE] or 0.0)


def sources_above(model: Mapping[str, Any]) -> list[str]:
    """Return the sources with a significantly higher recall@20 than a model, given the model's entry of `ranking`."""
    return [name for name, of in model["against"].items() if _difference(of).is_below()]


def _difference(against: Mapping[str, Any]) -> Estimate:
    """Return the difference of a model to a source, given an entry of `against`. Its error is unknown without requests.

    On few requests all differences can be equal, so an estimated error of 0 counts as unknown, too.
    """
    return Estimate(against["difference"] or 0.0, against["standard_error"] or None, against["df"] or 0)


def source_title(name: str) -> str:
    """Return the name of a source in words.

    Example:
        >>> source_title("popularity_10m"), source_title("popularity_1440m"), source_title("co_visitation")
        ('most clicked, 10 minutes', 'most clicked, 1 day', 'co-visitation')
    """
    if not name.startswith("popularity_"):
        return name.replace("_", "-")
    minutes = float(name.removeprefix("popularity_").removesuffix("m"))
    unit, size = next((u, s) for u, s in (("day", 1440), ("hour", 60), ("minute", 1)) if minutes % s == 0 or s == 1)
    return f"most clicked, {minutes / size:g} {unit}{'' if minutes == size else 's'}"


def ranking_verdict(metrics: Mapping[str, Any], headline: str) -> tuple[str, list[str]]:
    """Return a word (good, mixed, poor) and sentences.

    A model is good if its recall@20 is significantly higher than the recall@20 of every source, poor if it is higher than none,
    else mixed.
    """
    ranking = metrics["ranking"]
    sentences = []
    for name, of in ranking["models"].items():
        if of[HEADLINE] is None:
            continue
        error, sample = of["standard_errors"][HEADLINE], f", on {of['requests']:,} sampled clicks" if of["sampled"] else ""
        spread = "" if error is None else f" (standard error {100 * error:.1f}{sample})"
        where = f" of {ranking['live_items']:,.0f} live items" if name == headline else ""
        sentences.append(
            f"{name} has the clicked item among its first 20{where} for {100 * of[HEADLINE]:.1f} % of the clicks{spread}."
        )
    sources = [f"{source_title(name)} {100 * of[HEADLINE]:.1f} %" for name, of in ranking["sources"].items()]
    sentences.append(f"Without a trained model: {', '.join(sources)}.")
    above = [_difference(of).is_above() for of in ranking["models"][headline]["against"].values()]
    word = "good" if all(above) else "mixed" if any(above) else "poor"
    sentences.append(
        {
            "good": f"{headline} is above all of them.",
            "mixed": f"{headline} is above some of them, but not above all.",
            "poor": f"{headline} is above none of them.",
        }[word]
    )
    if metrics["model"]["auc"] is not None and metrics["sampling"]["draw"] == "uniform":
        auc = metrics["model"]["auc"]
        sentences.append(f"The AUC of {auc:.3f} is against uniform negatives, which popularity alone tells from clicks.")
    return word, sentences


def rankers_sentences(ranking: Mapping[str, Any] | None) -> list[str]:
    """Say which ranker wins; empty if a report does not compare rankers."""
    rankers = ranking and ranking["rankers"]
    if not ranking or not rankers or rankers["best"] is None:
        return []
    best, clicks = rankers["best"], f"{rankers['requests']:,} {'sampled ' * rankers['sampled']}clicks"
    named = {name: source_title(name) if name in ranking["sources"] else name for name in rankers["systems"]}
    recall = f"recall@20 of {100 * rankers['systems'][best][HEADLINE]:.1f} % on {clicks}"
    if rankers["winner"]:
        return [f"The best ranker is {named[best]}: its {recall} is significantly above that of every other."]
    behind = {name: of["behind"] for name, of in rankers["systems"].items() if name != best}
    equal = [named[name] for name, of in behind.items() if not _difference(of).is_above()]
    return [f"No ranker wins: {named[best]} has the highest {recall}, not significantly above {' and '.join(equal)}."]
