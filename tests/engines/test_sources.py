import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest
from huggingface_hub import constants

from mlx_mcp.engines.sources import fetch, find
from mlx_mcp.engines.starters import FILES, STARTERS
from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.types import Loading

SMOLLM2 = "starter:smollm2-135m-instruct"


def ignore(_: Loading) -> None:
    return


class Hub(ThreadingHTTPServer):
    """The few routes of a hub that a download needs, for one model, `org/tiny`."""

    commit = "1" * 40
    files: ClassVar = {
        "config.json": b"{}",
        "tokenizer.json": b"{ }",
        "model.safetensors": b"w" * 50_000,
        "modeling.py": b"print()",
        "consolidated.safetensors": b"w" * 50_000,
    }

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Routes)
        self.asked: list[str] = []
        self.error: tuple[int, str] | None = None
        """A status and the hub's own name for the error, which every answer shall be."""


class Routes(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if self.server.error:
            status, name = self.server.error
            self.answer(b"", status, {"X-Error-Code": name})
        elif path in ("/api/models/org/tiny", "/api/models/org/tiny/revision/main"):
            self.answer(json.dumps({"id": "org/tiny", "sha": Hub.commit, "siblings": []}).encode())
        elif path == f"/api/models/org/tiny/tree/{Hub.commit}":
            self.answer(json.dumps([self.entry(name) for name in Hub.files]).encode())
        elif (name := path.removeprefix(f"/org/tiny/resolve/{Hub.commit}/")) in Hub.files:
            headers = {"ETag": f'"{self.entry(name)["oid"]}"', "X-Repo-Commit": Hub.commit}
            self.answer(Hub.files[name], 200, headers)
        else:
            self.answer(b"", 404, {"X-Error-Code": "RevisionNotFound" if "org/tiny" in path else "RepoNotFound"})

    do_HEAD = do_GET

    def entry(self, name: str) -> dict[str, object]:
        data = Hub.files[name]
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


@pytest.fixture
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield tmp_path / "hub"
    huggingface_hub.close_session()


@pytest.fixture
def hub(empty_hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield server
        huggingface_hub.close_session()  # its open connections would keep the server's threads
        server.shutdown()
        serving.join()


def test_a_directory_is_its_own_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "org" / "mine"
    model.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (str(model), "./org/mine", "org/mine", "~/org/mine", "./org/../org/mine/"):
        assert fetch(source, tmp_path, ignore) == find(source, tmp_path) == model


def test_a_starter_that_is_here_needs_no_download(tmp_path: Path) -> None:
    assert find(SMOLLM2, tmp_path) is None
    path = tmp_path / "starters" / STARTERS["smollm2-135m-instruct"].directory
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).touch()
    assert fetch(SMOLLM2, tmp_path, ignore) == find(SMOLLM2, tmp_path) == path


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("./absent", "There is no directory ./absent."),
        ("/absent", "There is no directory /absent."),
        ("~/absent/model", "There is no directory ~/absent/model."),
        ("~no-such-user/model", "'~no-such-user/model' is not a path"),
        ("a" * 5000, "is not a path"),
        (
            "llama",
            "'llama' is neither a directory here nor a model of the Hugging Face hub, as ORG/NAME. "
            f"To start with: {SMOLLM2}.",
        ),
        ("a/b/c", "is neither a directory"),
        ("", "is neither a directory"),
        ("a\0b", "is not a path"),
        ("starter:llama", f"There is no starter 'llama'. To start with: {SMOLLM2}."),
        (__file__, "is a file. A model is a directory"),
    ],
)
def test_what_is_no_source_is_refused_with_the_reason(tmp_path: Path, source: str, words: str) -> None:
    for attempt in (lambda: fetch(source, tmp_path, ignore), lambda: find(source, tmp_path)):
        with pytest.raises(ModelUnavailable) as caught:
            attempt()
        assert words in str(caught.value)


def test_a_model_of_the_hub_is_downloaded_once(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reports: list[Loading] = []
    assert find("org/tiny", tmp_path) is None
    path = fetch("org/tiny", tmp_path, reports.append)
    assert {file.name for file in path.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert reports[0] == Loading("downloading org/tiny")
    assert reports[-1] == Loading("downloading org/tiny", 50_005, 50_005)
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert capfd.readouterr() == ("", "")
    hub.asked.clear()
    assert fetch("org/tiny", tmp_path, ignore) == find("org/tiny@main", tmp_path) == path
    assert fetch(f"org/tiny@{Hub.commit}", tmp_path, ignore) == path
    assert hub.asked == []


def test_a_part_of_a_model_is_not_taken_for_the_model(hub: Hub, tmp_path: Path) -> None:
    path = fetch("org/tiny", tmp_path, ignore)
    (path / "model.safetensors").unlink()
    assert find("org/tiny", tmp_path) is None
    assert (fetch("org/tiny", tmp_path, ignore) / "model.safetensors").stat().st_size == 50_000


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            (403, "GatedRepo"),
            "Accept the terms on its page and log in with `hf auth login`, or give a local directory.",
        ),
        ((401, "RepoNotFound"), "the hub has no such model, or it is private. Check the spelling"),
        ((500, ""), "the hub answered with HTTP status 500. Try again later"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line_that_says_what_to_do(
    hub: Hub, tmp_path: Path, error: tuple[int, str], words: str
) -> None:
    hub.error = error
    with pytest.raises(ModelUnavailable) as caught:
        fetch("org/tiny", tmp_path, ignore)
    assert str(caught.value).startswith("org/tiny could not be downloaded: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"it has no revision v9\. Check the spelling"):
        fetch("org/tiny@v9", tmp_path, ignore)


@pytest.mark.usefixtures("empty_hub_cache")
def test_a_hub_out_of_reach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelUnavailable, match=r"the hub cannot be reached \(.*refused.*\)\. Check the network"):
        fetch("org/tiny", tmp_path, ignore)


@pytest.mark.usefixtures("empty_hub_cache")
def test_a_hub_that_is_switched_off_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE is set and it is not here yet"):
        fetch("org/tiny", tmp_path, ignore)


@pytest.mark.usefixtures("empty_hub_cache")
def test_a_hub_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Routes) as silent:  # listens, and nobody serves
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.server_port}")
        monkeypatch.setattr("mlx_mcp.engines.hub.PATIENCE_S", 0.1)
        with pytest.raises(ModelUnavailable, match=r"the hub did not answer in time\. Check the network"):
            fetch("org/tiny", tmp_path, ignore)


@pytest.mark.usefixtures("empty_hub_cache")
def test_a_name_that_the_hub_does_not_allow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="the hub allows no such name"):
        fetch("org/double--dash", tmp_path, ignore)
