"""A local server with the part of the Hugging Face Hub's protocol that the client uses for model repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

TOKEN = "hf_writer"  # a token that may read and write
READER = "hf_reader"  # a token that may only read


@dataclass
class Repository:
    """A model repository of the server.

    Attributes:
        private: whether the repository is private.
        branches: {branch: commit}.
        commits: {commit: {path: content}}.
        messages: the messages of all commits.
    """

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Makes a commit with exactly these files the last one of a branch. Returns the name of the commit."""
        oid = hashlib.sha1(repr((len(self.messages), branch, message)).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def find_commit(self, revision: str) -> str | None:
        """Returns the commit of a branch, or `revision` itself if it is a commit, or None if it is neither."""
        return revision if revision in self.commits else self.branches.get(revision)


class HubServer:
    """A server that runs inside a `with` block.

    Attributes:
        url: the endpoint.
        repositories: {OWNER/NAME: Repository}.
        requests: "METHOD path" of every request.
        status: the HTTP status with which the server answers every request. None: it answers as the Hub does.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.status: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, files: Mapping[str, bytes], private: bool = False) -> Repository:
        """Adds a repository with these files in the branch main, and returns it."""
        self.repositories[name] = repository = Repository(private)
        repository.commit("main", dict(files), "files")
        return repository

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Returns {path: content} of a repository."""
        repository = self.repositories[name]
        return repository.commits[repository.find_commit(revision)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the head and the body are sent separately, which takes 40 ms otherwise
    hub: HubServer

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        """Sends the response to a request of any method."""
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.hub.requests.append(f"{self.command} {urlsplit(self.path).path}")
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if self.hub.status is not None:
            return self._json(self.hub.status, {"error": f"it is {self.hub.status}"})
        if token not in ("", TOKEN, READER):
            return self._json(401, {"error": "Invalid credentials in Authorization header"})
        if self.command == "POST" and token != TOKEN and parts != ["api", "validate-yaml"]:
            return self._json(403 if token else 401, {"error": "you may not"})
        if parts == ["api", "validate-yaml"]:
            return self._json(200, {"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[:2] == ["api", "models"]:
            return self._model("/".join(parts[2:4]), *(parts[4:] or ["revision", "main"]), body=body, token=token)
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), token)
        return self._json(404, {"error": f"nothing is at {self.path}"})

    def _create(self, request: dict) -> None:
        """Answers the request to create a repository."""
        name = f"{request['organization']}/{request['name']}"
        exists = name in self.hub.repositories
        if not exists:
            # Which of the two is sent depends on the client's version.
            private = request.get("private") or request.get("visibility") == "private"
            self.hub.repositories[name] = Repository(bool(private))
        self._json(409 if exists else 200, {"url": f"{self.hub.url}/{name}"})

    def _model(self, name: str, endpoint: str, revision: str, *rest: str, body: bytes, token: str) -> None:
        """Answers a request to an endpoint of a model repository. rest: what follows the revision in the path."""
        repository = self._visible(name, token)
        if repository is None:
            return None
        if endpoint == "branch":
            exists = revision in repository.branches
            repository.branches.setdefault(revision, repository.branches["main"])
            return self._json(409 if exists else 200, {})
        commit = repository.find_commit(revision)
        if commit is None:
            return self._missing("RevisionNotFound")
        files = repository.commits[commit]
        if endpoint == "revision":
            siblings = [{"rfilename": path} for path in files]
            answer = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []}
            return self._json(200, answer)
        if endpoint == "tree":
            prefix = "".join(f"{part}/" for part in rest)
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
                for path, content in files.items()
                if path.startswith(prefix)
            ]
            return self._json(200, entries) if entries else self._missing("EntryNotFound")
        if endpoint == "preupload":
            uploads = json.loads(body)["files"]
            modes = [{"path": upload["path"], "uploadMode": "regular", "shouldIgnore": False} for upload in uploads]
            return self._json(200, {"files": modes})
        if endpoint == "commit":
            return self._commit(name, revision, [json.loads(line) for line in body.splitlines()])
        return self._json(404, {"error": f"nothing is at {self.path}"})

    def _commit(self, name: str, branch: str, lines: list[dict]) -> None:
        """Answers the request for a commit, whose lines are a header and files to add or to delete."""
        repository = self.hub.repositories[name]
        files = dict(repository.commits[repository.branches[branch]])
        message = ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(branch, files, message)
        self._json(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def _resolve(self, name: str, revision: str, path: str, token: str) -> None:
        """Answers the request for a file."""
        repository = self._visible(name, token)
        if repository is None:
            return None
        commit = repository.find_commit(revision)
        if commit is None:
            return self._missing("RevisionNotFound")
        if path not in repository.commits[commit]:
            return self._missing("EntryNotFound", commit)
        content = repository.commits[commit][path]
        return self._send(200, content, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": commit})

    def _visible(self, name: str, token: str) -> Repository | None:
        """Returns the repository, or sends an error and returns None if the token may not see it."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and token != TOKEN):
            self._missing("RepoNotFound")
            return None
        return repository

    def _missing(self, code: str, commit: str = "") -> None:
        """Sends the Hub's error "not found" with this code."""
        self._json(404, {"error": code}, {"X-Error-Code": code, "X-Repo-Commit": commit})

    def _json(self, status: int, answer: object, headers: Mapping[str, str] = {}) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json", **headers})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
