"""The tuning service over HTTP: what differs from calls in the same process."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import requests

from ml.http.server import listen, serving
from ml.tuning import schema
from ml.tuning.database import Database
from ml.tuning.definition import Assignments, Study
from ml.tuning.server import MOST_WAITING, create_tuning_app, main
from ml.tuning.service import TuningService
from tests.helpers.paths import ROOT
from tests.helpers.tuning import definition, sqlite
from tests.helpers.tuning_http import TOKEN, connect_http, served

AUTH = (TOKEN, "")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(TuningService(Database(sqlite(tmp_path_factory.mktemp("tuning"))))) as url:
        connect_http(url).clients(1).projects().create(id="recsys", name="Recommenders")
        yield url


def new_run(url: str) -> str:
    return connect_http(url).clients(1).projects("recsys").training_runs().create(name="run").id


def test_requests_need_a_valid_token(url: str) -> None:
    for auth, text in ((None, "needs a token"), (("wrong", ""), "unknown"), (("", TOKEN), "needs a token")):
        response = requests.get(f"{url}/v1/tokens/self", auth=auth)
        assert response.status_code == 401 and text in response.json()["message"]
        assert response.headers["www-authenticate"].startswith("Basic")
    assert requests.get(f"{url}/v1/tokens/self", headers={"Authorization": f"Bearer {TOKEN}"}).json()["token"] == TOKEN
    assert requests.get(f"{url}/v1/tokens/self", auth=(f"{TOKEN}@worker-1", "")).json()["token"] == TOKEN


def test_a_session_is_opened_with_the_token_as_password(url: str) -> None:
    """As SigOpt's own integration tests get their token, with curl and without a content type."""
    opened = requests.post(f"{url}/v1/sessions", data=json.dumps({"email": "a@b.c", "password": TOKEN})).json()
    token = opened["api_token"]["token"]
    tokens = requests.get(f"{url}/v1/clients/{opened['client']['id']}/tokens", auth=(token, "")).json()["data"]
    assert [one["token"] for one in tokens if one["token_type"] == "client-api"] == [TOKEN]
    for body in ({"password": "wrong"}, {"email": "a@b.c"}, {"password": 1}, {"password": None}):
        assert requests.post(f"{url}/v1/sessions", json=body).status_code == 401


def test_a_response_can_be_skipped(url: str) -> None:
    run = new_run(url)
    for method, body in (("MERGE", {"name": "a"}), ("PUT", {"name": "b"}), ("GET", None)):
        headers = {"X-Response-Content": "skip"}
        response = requests.request(method, f"{url}/v1/training_runs/{run}", json=body, auth=AUTH, headers=headers)
        assert (response.status_code, response.content) == (204, b"")
    assert requests.get(f"{url}/v1/training_runs/{run}", auth=AUTH).json()["name"] == "b"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"name": ' + b"[" * 100 + b"]" * 100 + b"}", "more than 32 levels"),
        (b'{"name": NaN}', "name: must be a finite number"),
        (b'{"name": 1e999}', "name: must be a finite number"),
        (b'{"name": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"name": "a\\u0000b"}', "NUL"),
        (b'{"name": "\\ud800"}', "surrogate"),
    ],
)
def test_bodies_that_are_no_json_object(url: str, body: bytes, text: str) -> None:
    response = requests.post(f"{url}/v1/clients/1/projects/recsys/training_runs", data=body, auth=AUTH)
    assert response.status_code == 400 and text in response.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "nothing", 404),
        ("GET", "", 404),
        ("GET", "training_runs/1/", 404),
        ("POST", "training_runs/1", 405),
        ("MERGE", "experiments", 405),
        ("GET", "clients/1/projects/a%2Fb", 404),
        ("GET", "clients/1/projects/%ff", 404),
        ("GET", "clients/1/projects/%00", 400),
        ("PATCH", "training_runs/1", 405),
    ],
)
def test_unknown_paths_and_verbs(url: str, method: str, path: str, status: int) -> None:
    response = requests.request(method, f"{url}/v1/{path}", auth=AUTH)
    assert response.status_code == status and set(response.json()) == {"message", "status"}


def test_files_are_uploaded_and_downloaded_by_url(url: str) -> None:
    run = new_run(url)
    content = b"this\nis\na\ntest\n"
    body = {"name": "notes", "filename": "notes.txt", "content_type": "text/plain", "content_length": len(content)}
    announce = f"{url}/v1/training_runs/{run}/files"
    announced = requests.post(announce, json={**body, "content_md5": "CWVuO5yi2saakk6Jy1hHiQ=="}, auth=AUTH).json()
    upload = announced["upload"]
    assert upload["url"].startswith(f"{url}/uploads/") and requests.get(upload["url"]).status_code == 404
    wrong = requests.request(upload["method"], upload["url"], headers=upload["headers"], data=b"that\nis\na\ntest\n")
    assert wrong.status_code == 400 and "MD5" in wrong.json()["message"]
    for _ in range(2):  # a client repeats a request whose response was lost
        assert requests.request(upload["method"], upload["url"], headers=upload["headers"], data=content).status_code == 204
    found = requests.get(f"{url}/v1/files/{announced['id']}", auth=AUTH).json()
    assert (found["name"], found["filename"], found["content_length"]) == ("notes", "notes.txt", len(content))
    download = requests.get(found["download"]["url"])
    assert download.content == content and download.headers["content-disposition"] == "attachment"
    assert requests.get(found["download"]["url"] + "x").status_code == 404
    assert requests.get(f"{url}/uploads/999/x").status_code == requests.get(f"{url}/uploads/x/x").status_code == 404
    assert requests.get(f"{url}/v1/training_runs/{run}", auth=AUTH).json()["files"] == [announced["id"]]


@pytest.mark.parametrize(
    "change",
    [
        *({"content_length": value} for value in (None, "1", -1, 0, {}, [], "", 10**9)),
        *({"content_md5": value} for value in (None, "1", -1, {}, "", "aGhlbGxv", "CWVuO5yi2saakk6Jy1hHiQ=!")),
        *({"content_type": value} for value in (None, 1, {}, "hello/world", "image", "image/<>", "text/html")),
        {"name": None},
        {"name": "x" * 101},
        {"other": 1},
    ],
)
def test_invalid_announcements_of_files(url: str, change: dict[str, Any]) -> None:
    body = {"name": "x", "content_type": "text/plain", "content_length": 1, "content_md5": "CWVuO5yi2saakk6Jy1hHiQ==", **change}
    response = requests.post(f"{url}/v1/training_runs/{new_run(url)}/files", json=body, auth=AUTH)
    assert response.status_code == 400, response.text


def test_the_description_names_every_call_and_has_no_dangling_reference(url: str) -> None:
    described = requests.get(f"{url}/openapi.json").json()
    calls = {(method, path) for path, methods in described["paths"].items() for method in methods}
    assert {("post", "/v1/experiments"), ("x-merge", "/v1/training_runs/{run}"), ("get", "/v1/tokens/{token}")} <= calls
    schemas = described["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references <= set(schemas)
    operations = [one for methods in described["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["summary"].endswith(".") for one in operations)


def test_calls_that_wait_for_suggestions_do_not_hold_up_others(tmp_path: Path) -> None:
    """More calls than the server has threads ask for suggestions, while the first one is computed."""
    computing, asked = threading.Event(), 60

    def engine(study: Study) -> Assignments:
        assert computing.wait(60)
        return {"learning_rate": 0.1 / (1 + len(study.open)), "layers": 1, "interaction": "dcn"}

    service = TuningService(Database(sqlite(tmp_path)), engine=engine, most_waiting=MOST_WAITING)
    with served(service) as url, ThreadPoolExecutor(asked + 1) as pool:
        tuned = connect_http(url).experiments(connect_http(url).experiments().create(**definition()).id)
        path = f"{url}/v1/experiments/{tuned.fetch().id}"
        asking = [pool.submit(requests.post, f"{path}/suggestions", json={}, auth=AUTH, timeout=60) for _ in range(asked)]
        try:
            for refused in islice(as_completed(asking, timeout=30), asked - MOST_WAITING):
                assert refused.result().status_code == 429 and int(refused.result().headers["retry-after"]) >= 1
                assert f"{MOST_WAITING} calls wait for suggestions" in refused.result().json()["message"]
            assert requests.get(f"{url}/health", timeout=30).json() == {"status": "ok"}
            chosen = {"learning_rate": 0.001, "layers": 1, "interaction": "dcn"}
            report = {"assignments": chosen, "failed": True}
            assert requests.post(f"{path}/observations", json=report, auth=AUTH, timeout=30).status_code == 200
            repeating = pool.submit(tuned.suggestions().create)  # the client repeats calls that get 429
        finally:
            computing.set()
        served_to = [one.result().json()["assignments"] for one in asking if one.result().status_code == 200]
        assert len({str(one) for one in [*served_to, repeating.result().assignments]}) == MOST_WAITING + 1


def test_an_unreachable_database_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "_install", lambda self: None)
    app = create_tuning_app(TuningService(Database("postgresql://127.0.0.1:1/tuning")))
    with serving(app) as url:
        answer = requests.get(f"{url}/v1/experiments", auth=AUTH)
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    assert answer.json() == {"message": "The tuning service cannot reach its database; try again later", "status": 503}


def test_the_program_names_an_unreachable_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit, match="cannot reach its database"):
        main(["--database", "postgresql://127.0.0.1:1/tuning", "--token-file", str(tmp_path / "token")])
    assert "127.0.0.1:1/tuning: the database is unavailable" in caplog.text


def test_the_program_refuses_a_damaged_token_and_a_port_in_use(tmp_path: Path) -> None:
    token = tmp_path / "token"
    start = ["--database", sqlite(tmp_path), "--token-file", str(token)]
    with listen() as taken, pytest.raises(SystemExit, match="is in use: choose another port"):
        main([*start, "--port", str(taken.getsockname()[1])])
    with pytest.raises(SystemExit, match=r"203\.0\.113\.1, port 8714: Cannot assign"):
        main([*start, "--host", "203.0.113.1"])
    for content, mode, reason in (("two words", 0o600, "does not hold a token"), ("token", 0o644, "run `chmod 600")):
        token.write_text(content)
        token.chmod(mode)
        with pytest.raises(SystemExit, match=reason):
            main(start)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("mysql://localhost/tuning", r"^--database mysql://localhost/tuning: expected the path of a SQLite file"),
        (
            "postgresql:/localhost",
            r"^--database postgresql:/localhost: expected two slashes.*Give the path",
        ),
        ("nonsense://", r"^--database nonsense://: "),
        ("postgresql://u:secret@localhost:port/x", r"^--database postgresql://\*\*\*@localhost:port/x: .*port"),
        ("{tmp}/file/tuning.db", r"^--database .* Give the path of a SQLite file"),
        ("{tmp}/file", r"^--database .*not a database.* Give the path"),
        ("{tmp}/later.db", r"has schema version \d+, but this program reads version \d+\. Use the version of Evergreen"),
    ],
)
def test_the_program_refuses_other_databases_in_one_line(tmp_path: Path, address: str, reason: str) -> None:
    (tmp_path / "file").write_text("text " * 1000)
    with Database(tmp_path / "later.db").transaction() as connection:
        connection.execute(schema.versions.update().values(version=schema.VERSION + 1))
    given = address.replace("{tmp}", str(tmp_path))
    command = [sys.executable, "-m", "ml.tuning.server", "--port", "0", "--database", given]
    environment = {**os.environ, "EVERGREEN_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(reason, done.stderr.strip()) and done.stderr.count("\n") == 1


ASK = """
import os, httpx
auth = (os.environ["SIGOPT_API_TOKEN"], "")
print(httpx.get(os.environ["SIGOPT_API_URL"] + "/v1/sessions", auth=auth).text)
"""


def test_the_program_prints_what_the_client_needs(tmp_path: Path) -> None:
    env = {**os.environ, "EVERGREEN_HOME": str(tmp_path / "a home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ml.tuning.server", "--port", "0"]
    states = []
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT) as process:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(5)]
            exports = "".join(line for line in lines if line.startswith("export "))
            ask = f"{exports} {sys.executable} -c '{ASK}'"
            shown = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
            states.append(json.loads(shown.stdout)["api_token"]["token"])
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert states[-1] not in "".join(lines)
    assert states[0] == states[1]
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "a home" / "tuning").iterdir()}
    assert files["token"] == 0o600 and "tuning.db" in files
