"""The routes of the pages: a list of all experiments at `/`, and `/experiment/{id}`.

A page is one file without references to other sites. A browser asks for the token of the service, which is the user name of
Basic credentials.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from ml.http.tokens import presented_token
from ml.tuning.call import Caller
from ml.tuning.errors import ApiError
from ml.tuning.page.results import Results, listed, read, with_importances
from ml.tuning.refusals import refusal
from ml.tuning.service import TuningService

_templates = Environment(loader=PackageLoader("ml.tuning.page", "."), autoescape=True, undefined=StrictUndefined)
_templates.filters |= {
    "number": lambda value: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value,
    "utc": lambda seconds: f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}",
}


def add_page_routes(app: FastAPI, service: TuningService) -> None:
    """Add the pages to the app of a service.

    Args:
        app: The app.
        service: What answers the calls.
    """

    @app.get("/", include_in_schema=False)
    def experiments(request: Request) -> Response:
        """List the experiments."""
        return _answered(service, request, lambda caller: _index(service, caller))

    @app.get("/experiment/{identity}", include_in_schema=False)
    def experiment(identity: str, request: Request) -> Response:
        """Show the results of an experiment."""
        return _answered(service, request, lambda caller: _experiment(service, caller, identity))


def _answered(service: TuningService, request: Request, render: Callable[[Caller], Response]) -> Response:
    try:
        return render(service.authenticate(presented_token(request.headers.get("authorization", ""))))
    except ApiError as error:
        return refusal(error)


def _index(service: TuningService, caller: Caller) -> Response:
    with service.database.transaction(write=False) as connection:
        return _page("experiments.html", experiments=listed(service.call(connection, caller, {})))


def _experiment(service: TuningService, caller: Caller, identity: str) -> Response:
    with service.database.transaction(write=False) as connection:
        results, study = read(service.call(connection, caller, {"experiment": identity}))
    return experiment_page(with_importances(results, study))


def experiment_page(results: Results) -> Response:
    """Render the page of an experiment."""
    from bokeh.embed import components
    from bokeh.resources import Resources

    from ml.tuning.page.figures import figures

    drawn = figures(results)
    script, placed = components(drawn, wrap_script=False) if drawn else ("", {})
    library = Resources(mode="inline", components=["bokeh"], minified=True).js_raw if drawn else []
    return _page("experiment.html", results=results, figures=placed, scripts=[*library, script])


def _page(template: str, **values: Any) -> Response:
    """Render a page whose own scripts are the only ones that a browser runs."""
    nonce = secrets.token_urlsafe(16)
    policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
    text = _templates.get_template(template).render(nonce=nonce, **values)
    return HTMLResponse(text, headers={"content-security-policy": policy})
