"""`make serve`: serves recommendations over HTTP, from the newest models and the events that arrive."""

import gc
import json
import logging
import math
import secrets
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import click
from filelock import FileLock, Timeout
from upath import UPath

from ml.lake import Lake
from orchestration.deployments import home, lake_root, landing_root, serving_folder, sync_root
from orchestration.replay import quiet_console, the_dataset

if TYPE_CHECKING:
    from ml.serving.models import ModelVersion

PORT = 8715
TOKEN = "serving-token"
SWITCH_SECONDS = 5e-4
"""How long a request waits for Python's lock while another thread applies a delta; by default, Python waits 5 ms."""

_log = logging.getLogger("evergreen")

WAITING = "The models are loaded; the service starts when this file exists:"


@click.command()
@click.argument("dataset", default="synthetic")
@click.option("--model", help="The ranking model; by default the champion of the reports.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Port; 0 for any free one.")
@click.option("--name", "names", multiple=True, help="A further host name under which the service is reached.")
@click.option(
    "--rate", type=click.FloatRange(1), default=1000, show_default=True, help="Requests that one client may send in a second."
)
@click.option("--in-flight", type=click.IntRange(1), default=256, show_default=True, help="Requests in progress at once.")
@click.option(
    "--clock", type=click.Path(path_type=Path), help="File of simulated time (ml.serving.clock); waits until it exists."
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that answer requests, such as one per core. They share rows. --rate and --in-flight hold for each of them.",
)
@click.option("--open", "is_open", is_flag=True, help="Serve without a token. Only for networks that you trust.")
def main(
    dataset: str,
    model: str | None,
    host: str,
    port: int,
    names: tuple[str, ...],
    rate: float,
    in_flight: int,
    clock: Path | None,
    processes: int,
    is_open: bool,
) -> None:
    """Serve recommendations of DATASET.

    The service takes the newest exported models, or what `make online` publishes, and learns from the events that it is sent.
    Ctrl-C ends it after the requests in progress.
    """
    quiet_console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, it withdraws the address
    import torch

    from ml.http.guard import LOOPBACK
    from ml.http.limits import Limits
    from ml.http.server import listen, serve, url_of
    from ml.http.tokens import load_token
    from ml.online.examples import read_side_tables
    from ml.serving.announced import Announcement
    from ml.serving.app import create_serving_app
    from ml.serving.choice import choose_models
    from ml.serving.clock import Clock
    from ml.serving.followed import followed_models
    from ml.serving.journal import Journal
    from ml.serving.models import NoModel
    from ml.serving.pins import Pins
    from ml.serving.start import clock_of, load_models, start

    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_SECONDS)
    spec, lake = the_dataset(dataset), Lake.at(lake_root())
    stream = UPath(home()) / "stream" / spec.name
    token_file, folder = Path(home()) / TOKEN, serving_folder(spec.name)
    instance = secrets.token_hex(16)
    stores = FileLock(Path(stream.path) / "serve.lock", timeout=0)  # held until the end: a journal has one writer

    def withdraw() -> None:
        with suppress(OSError):  # the check then says which file to delete
            Announcement.withdraw(folder)

    def announce(listener: socket.socket) -> None:
        """Tell other processes where the service answers, until it ends."""
        urls = [url_of(listener), *(f"http://{name}:{listener.getsockname()[1]}" for name in names)]
        click.get_current_context().call_on_close(withdraw)
        try:
            Announcement(urls, None if token is None else str(token_file), instance).write(folder)
        except OSError as error:  # such as a full disk
            _log.warning("the check serving_health cannot find the service, because its address cannot be written: %s", error)

    limits, pins = Limits(rate, burst=math.ceil(rate), in_flight=in_flight), Pins(folder)
    try:
        Path(stream.path).mkdir(parents=True, exist_ok=True)
        stores.acquire()
        synced = followed_models(spec, sync_root(), folder)
        for followed in synced.values():
            click.get_current_context().call_on_close(followed.leave)
        token = None if is_open else load_token(token_file)
        sides = read_side_tables(spec, f"{landing_root()}/{spec.name}")
        shown = Clock.read(clock) if clock else None
        if processes > 1:
            from ml.serving.processes.keeper import Keeper
            from ml.serving.processes.worker import Service

            models, journaled = load_models(spec, lake, synced, model, pins), None if model else spec.experiment
            if clock is not None:
                click.echo(f"{WAITING} {clock}")
                shown = Clock.wait_for(clock)
            shown, listener = shown or clock_of(spec, lake, model), listen(host, port)
            hosts = (*LOOPBACK, host, *names)
            service = Service(spec, lake_root(), stream, list(sides), model, pins, shown, token, hosts, limits, instance)
            ranking = models[choose_models(spec, model).model].version
            said = partial(_say, url_of(listener), spec.name, ranking, shown.is_live, token, token_file)

            def say(columns: list[str]) -> None:
                announce(listener)
                said(columns)

            Keeper(service, models, Journal(spec, stream, journaled), processes, listener, _work).run(say)
            return
        engine = start(spec, lake, stream, sides, synced, model, pins, shown)
        if clock is not None:
            click.echo(f"{WAITING} {clock}")
            engine.clock = Clock.wait_for(clock)
        listener = listen(host, port)
    except Timeout as error:
        raise click.ClickException(
            f"another service runs for {spec.name}, and stores its events in {stream}; stop it, or set another EVERGREEN_HOME"
        ) from error
    except (NoModel, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    columns = engine.recommender.context_columns if engine.recommender else []
    announce(listener)
    _say(url_of(listener), spec.name, engine.ranking.version, engine.clock.is_live, token, token_file, columns)
    gc.collect()
    gc.freeze()  # a full collection of the objects of models and items takes hundreds of milliseconds, in which no request runs
    serve(create_serving_app(engine, token, (*LOOPBACK, host, *names), limits, instance=instance), listener)


def _work(shared: bytes, listener: socket.socket, number: int, connection: Connection) -> None:
    """Answer requests in a process of its own."""
    quiet_console()
    import torch

    from ml.serving.processes.worker import work

    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_SECONDS)
    work(shared, listener, number, connection)


def _say(
    url: str, dataset: str, ranking: "ModelVersion", is_live: bool, token: str | None, token_file: Path, columns: list[str]
) -> None:
    """Tell where the service answers, and how to call it."""
    click.echo(f"Serving {dataset} on {url}: {ranking.model} of {ranking.version}")
    if not is_live:
        click.echo("The log has ended, so the time of requests continues from its end; `now` in /version shows it.")
    if columns:
        click.echo(
            f"Columns that describe the request or the user: {', '.join(columns)}. A column that describes items belongs in "
            f"`item_columns` of {dataset}.yaml."
        )
    click.echo(f"Page: {url}/{'' if token is None else f'#{token}'}")
    if token is not None:
        click.echo(f"Token: in {token_file}; send it as `Authorization: Bearer TOKEN`")
    example = json.dumps({"user": None, "k": 5})
    header = "" if token is None else f' -H "Authorization: Bearer $(cat {token_file})"'
    click.echo(f"Try: curl -s {url}/recommend{header} -H 'Content-Type: application/json' -d '{example}'")


if __name__ == "__main__":
    main()
