"""`JsonRoute` answers as a usual route of FastAPI does, and says what it cannot take."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ml.http.app import create_app
from ml.http.routes import JsonRoute
from ml.serving.forms import Form, Scalar, Value

JSON = {"content-type": "application/json"}


class Asked(Form):
    user: Scalar = None
    k: int = Field(default=10, ge=1, le=500)
    context: dict[str, Value] = Field(default={})


def app_of(route: type[APIRoute]) -> FastAPI:
    app, router = create_app("Test"), APIRouter(route_class=route)

    @router.post("/ask", response_model=Asked)
    async def ask(asked: Asked) -> Response:
        return Response(repr(asked))

    app.include_router(router)
    return app


LEAN, USUAL = (TestClient(app_of(route), base_url="http://localhost") for route in (JsonRoute, APIRoute))

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
values = st.recursive(scalars, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=3), one, max_size=3))
bodies = st.dictionaries(st.sampled_from(["user", "k", "context", "other"]), values, max_size=4) | values


@given(bodies)
def test_any_json_is_answered_as_by_a_usual_route(body: Any) -> None:
    data = json.dumps(body)
    lean, usual = (client.post("/ask", content=data, headers=JSON) for client in (LEAN, USUAL))
    assert lean.status_code == usual.status_code
    if lean.status_code == 200:
        assert lean.text == usual.text
    elif isinstance(body, dict):
        assert {fault.partition(":")[0] for fault in lean.json()["message"].split("; ")} == {
            fault.partition(":")[0] for fault in usual.json()["message"].split("; ")
        }


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"user": "\xed\xa0\x80"}', b"[" * 100_000, b'{"k": 1e400}'])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    answer = LEAN.post("/ask", content=data, headers=JSON)
    assert answer.status_code == 400 and answer.json()["message"].startswith("body")


def test_a_body_with_many_faults_gets_a_short_answer() -> None:
    data = json.dumps({str(number): 1 for number in range(5000)})
    answer = LEAN.post("/ask", content=data, headers=JSON)
    assert answer.status_code == 400 and answer.json()["message"] == "body: 5000 keys or values do not fit; see /openapi.json"
    long = json.dumps({"context": {"tags": [[]] * 300_000}})
    answer = LEAN.post("/ask", content=long, headers=JSON)
    assert answer.status_code == 400 and len(answer.content) < 1000
    answer = LEAN.post("/ask", content=json.dumps({"x" * 100_000: 1}), headers=JSON)
    assert answer.status_code == 400 and len(answer.content) < 5000 and answer.json()["message"].startswith("body.xxx")


def test_another_content_type_is_named() -> None:
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "multipart/form-data; boundary=x"}):
        answer = LEAN.post("/ask", content=b"{}", headers=headers)
        assert answer.status_code == 400 and "content-type: application/json" in answer.json()["message"]
    for name in ("application/json; charset=utf-8", "application/vnd.api+json", "Application/JSON"):
        assert LEAN.post("/ask", content=b"{}", headers={"content-type": name}).status_code == 200


def test_the_description_of_both_is_the_same() -> None:
    assert app_of(JsonRoute).openapi() == app_of(APIRoute).openapi()


def test_a_function_that_takes_anything_else_is_refused() -> None:
    router = APIRouter(route_class=JsonRoute)

    async def query(k: int) -> Response: ...
    async def request(_: Request) -> Response: ...
    async def two(a: Asked, b: Asked) -> Response: ...
    async def plain(a: list[int]) -> Response: ...
    async def needs(a: Annotated[Asked, Depends(query)]) -> Response: ...

    class Other(BaseModel):
        pass

    for number, function in enumerate((query, request, two, plain, needs)):
        with pytest.raises(TypeError, match=f"/{number}: "):
            router.post(f"/{number}", response_model=Other)(function)
