"""A client of `flowgen serve`, for programs: standard library alone.

    client = Client("http://localhost:8000", token="...")
    paths = client.sample({"run": "notes", "conditions": {"pitch": "C4"}, "count": 4}, into="clips")
    client.sample({"way": "continue", "clip": "begun"}, files={"begun": "begun.wav"}, into="clips")

What a request may hold: docs/serving.md.
"""

from __future__ import annotations

import json
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgen.errors import FlowgenError, UsageError


@dataclass(frozen=True)
class Client:
    """A server by its address. Methods raise UsageError for what it refuses, FlowgenError where it cannot be asked."""

    url: str
    token: str | None = None
    timeout_s: float = 60.0

    def runs(self) -> list[dict[str, Any]]:
        """The runs that it samples from, with conditions, ways of sampling and settings of each."""
        return list(self._json("GET", "/v1/runs")["runs"])

    def submit(self, request: Mapping[str, Any], files: Mapping[str, Path | str] | None = None) -> dict[str, Any]:
        """Queue a generation, with the files that it names; returns its state, with its `id`."""
        if not files:
            return self._json("POST", "/v1/generations", json.dumps(request).encode(), "application/json")
        boundary = secrets.token_hex(16)
        parts = [_part(boundary, "request", json.dumps(request).encode())]
        for name, path in files.items():
            try:
                parts.append(_part(boundary, name, Path(path).read_bytes(), Path(path).suffix))
            except OSError as error:
                raise UsageError(f"cannot read {path}: {error.strerror}") from None
        body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
        return self._json("POST", "/v1/generations", body, f"multipart/form-data; boundary={boundary}")

    def state(self, id: str, wait_s: float = 0.0) -> dict[str, Any]:
        """How far a generation is: `state`, `progress`, `files`, `error`; when it has ended, at the latest after `wait_s`."""
        return self._json("GET", f"/v1/generations/{id}?wait_s={wait_s:g}")

    def cancel(self, id: str) -> dict[str, Any]:
        """Make no more of it; what has ended stays as it is."""
        return self._json("DELETE", f"/v1/generations/{id}")

    def wait(self, id: str, on_state: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Until it is done; `on_state` is told of it five times a second. FlowgenError: it failed or was cancelled."""
        while True:
            state = self.state(id, 20.0 if on_state is None else 0.2)
            if on_state is not None:
                on_state(state)
            if state["state"] == "done":
                return state
            if state["state"] in ("failed", "cancelled"):
                raise FlowgenError(f"the server {state['state']} it: {state.get('error', 'as it was asked to')}")

    def stream(self, id: str) -> Iterator[bytes]:
        """The file of a long clip (way `long`) as it is made, in blocks. UsageError: no such clip."""
        with self._open("GET", f"/v1/generations/{id}/stream") as answer:
            while block := answer.read1(1 << 16):
                yield block

    def fetch(self, link: str, path: Path) -> Path:
        """One of its `files` into a file."""
        with self._open("GET", link) as answer, path.open("wb") as file:
            shutil.copyfileobj(answer, file)
        return path

    def sample(
        self, request: Mapping[str, Any], files: Mapping[str, Path | str] | None = None, into: Path | str = "."
    ) -> list[Path]:
        """Ask, wait, and fetch the files into a folder, under names of their own."""
        made = self.wait(self.submit(request, files)["id"])
        folder = Path(into)
        folder.mkdir(parents=True, exist_ok=True)
        suffix = "." + str(request.get("format") or self._suffix(made["run"])).lstrip(".")
        return [self.fetch(link, folder / f"{made['id']}-{i}{suffix}") for i, link in enumerate(made["files"])]

    def _suffix(self, run: str) -> str:
        return str(next(r["formats"][0] for r in self.runs() if r["name"] == run))

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> dict[str, Any]:
        with self._open(method, path, body, kind) as answer:
            found = json.load(answer)
        assert isinstance(found, dict)
        return found

    def _open(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        headers = {"Content-Type": kind} if kind else {}
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        asked = urllib.request.Request(self.url.rstrip("/") + path, body, headers, method=method)
        try:
            return urllib.request.urlopen(asked, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except urllib.error.URLError as error:
            raise FlowgenError(f"cannot reach {self.url}: {error.reason}") from None
        except (OSError, ValueError) as error:
            raise FlowgenError(f"cannot reach {self.url}: {error}") from None


def _refusal(error: urllib.error.HTTPError) -> FlowgenError:
    try:
        sentence = str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        sentence = f"{error.code} {error.reason}"
    return UsageError(sentence) if error.code in (404, 409, 413, 415, 422) else FlowgenError(sentence)


def _part(boundary: str, name: str, content: bytes, suffix: str | None = None) -> bytes:
    file = "" if suffix is None else f'; filename="file{suffix}"'
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
