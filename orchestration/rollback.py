"""`make rollback`: serves an earlier version of a model, until the newest version is chosen again."""

import click

from ml.lake import Lake
from ml.sync.folder import sync_folder
from orchestration.deployments import lake_root, serving_folder, sync_root
from orchestration.replay import quiet_console, the_dataset


@click.command()
@click.argument("dataset", default="synthetic")
@click.option("--model", help="The model, or `lambdarank`; by default the one that orders recommendations.")
@click.option("--to", help="The day (YYYY-MM-DD) to serve; by default the newest export before the served one.")
@click.option("--forward", is_flag=True, help="Serve the newest version again.")
def main(dataset: str, model: str | None, to: str | None, forward: bool) -> None:
    """Pin a model of DATASET to an earlier day. Running services follow within seconds, and later ones begin with it.

    Exits with 0 if the model is pinned or, with --forward, if its newest version is served from now on; with 1 if there is no
    earlier version that can be served, and nothing has changed; with 2 if an argument is wrong.
    """
    quiet_console()
    from ml.evaluation.history import DamagedReport
    from ml.serving.champion import champion_of, model_to_rank
    from ml.serving.choice import choose_models
    from ml.serving.pins import Pins, WrongPin
    from ml.serving.ranker import NAME
    from ml.serving.rollback import NothingToServe, roll_back

    spec, lake, pins = the_dataset(dataset), Lake.at(lake_root()), Pins(serving_folder(dataset))
    asks = spec.item is not None and spec.ranked is not None and spec.ranked.lambdarank is not None
    models = [*spec.models, *([NAME] if asks else [])]
    champion = None
    try:
        if model is None and not asks and spec.experiment is None:
            champion = champion_of(spec, lake)
        name = model or (NAME if asks else choose_models(spec, champion=model_to_rank(spec, champion, pins)).model)
    except (DamagedReport, WrongPin, OSError) as error:
        raise click.ClickException(f"{error}; or name a model with MODEL= (option --model)") from error
    if name == champion:
        click.echo(
            f"{dataset}: {name} is meant, the champion of the reports. If the service refuses it (see /version), name the "
            "model that ranks instead with MODEL= (option --model)."
        )
    if name not in models:
        raise click.BadParameter(f"{dataset} has no model {name!r}; it has {', '.join(models)}", param_hint="--model")
    if forward:
        if to:
            raise click.UsageError("give either --to or --forward")
        was = "" if pins.unpin(name) else ", as before"
        click.echo(f"{dataset}/{name}: the newest version is served{was}")
        return
    try:
        done = roll_back(lake, spec, pins, name, sync_folder(sync_root(), dataset, name), to)
    except (NothingToServe, WrongPin) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{dataset}/{name}: {done.day} is served instead of {done.left}")
    click.echo(f"To serve the newest version again: make rollback DATASET={dataset} MODEL={name} FORWARD=1")


if __name__ == "__main__":
    main()
