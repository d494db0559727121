"""A Hub of models over HTTP, for tests: repositories with commits, large files, and faults.

Speaks what huggingface_hub, timm and transformers ask for without Xet. Large files lie in a folder,
named by their sha256; commits are kept in memory. One token is known, that of the user ``org``.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_known"
OWNER = "org"
LARGE = (".safetensors", ".png")
FAULTS = ("503", "drop", "lost", "401", "403", "429", "slow")


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status, message, code=None, headers=(), **more):
        self.status, self.message, self.code, self.headers = status, message, code, headers
        self.more = more


@dataclass
class Commit:
    oid: str
    parent: str | None
    message: str
    files: dict[str, bytes | str] = field(repr=False)
    """The content of each file, or of a large one its sha256."""


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch, files, message):
        parent = self.branches.get(branch)
        oid = hashlib.sha1(f"{parent} {message} {len(self.commits)}".encode()).hexdigest()
        self.commits.append(Commit(oid, parent, message, files))
        self.branches[branch] = oid
        return oid

    def at(self, revision):
        oid = self.branches.get(revision, revision)
        for commit in self.commits:
            if commit.oid == oid:
                return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class HubServer:
    """``with HubServer(folder) as hub``: listens on ``hub.url`` until the end.

    Attributes:
        requests: Method and path of every request so far.
    """

    def __init__(self, folder: Path) -> None:
        self.large = Path(folder)
        self.large.mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self._faults: dict[str, dict] = {}
        self.lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, *, token: str | None = TOKEN) -> dict[str, str]:
        """What a process needs to talk to this server, with a cache of its own."""
        known = {"HF_TOKEN": token} if token else {}
        return known | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "HF_HUB_ETAG_TIMEOUT": "2",
        }

    def add_repo(self, repo_id, folder=None, *, private=False, gated=False):
        """Make a repository, with the files of a folder if one is given."""
        repo = self.repos[repo_id] = Repo(private, gated)
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        if folder is not None:
            files = {
                path.name: self.store(repo_id, path.name, path.read_bytes())
                for path in sorted(Path(folder).iterdir())
            }
            repo.commit("main", files, "add the files of a folder")
        return repo

    def store(self, repo_id, name, content):
        """The content of a file as a commit holds it."""
        if not name.endswith(LARGE):
            return content
        oid = hashlib.sha256(content).hexdigest()
        path = self.path_of(repo_id, oid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return oid

    def path_of(self, repo_id, oid):
        return self.large / repo_id / oid

    def fail(self, word, request, kind, times=1):
        """From the so-manieth request on that holds a word, fail as often as said."""
        assert kind in FAULTS
        self._faults[word] = {"left": request, "kind": kind, "times": times}

    def fault_of(self, text):
        with self.lock:
            for word, fault in self._faults.items():
                if word in text:
                    if fault["left"]:
                        fault["left"] -= 1
                    elif fault["times"]:
                        fault["times"] -= 1
                        return fault["kind"]
        return None


def connect(environment: dict[str, str]) -> None:
    """What `HubServer.environment` does, in a process that has imported huggingface_hub before."""
    from huggingface_hub import constants

    os.environ.pop("HF_TOKEN", None)
    os.environ.update(environment)
    constants.ENDPOINT = environment["HF_ENDPOINT"]
    template = "/{repo_id}/resolve/{revision}/{filename}"
    constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + template
    constants.HF_HUB_CACHE = str(Path(environment["HF_HOME"]) / "hub")
    constants.HF_HUB_OFFLINE = environment["HF_HUB_OFFLINE"] == "1"
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_DOWNLOAD_TIMEOUT = int(environment["HF_HUB_DOWNLOAD_TIMEOUT"])
    constants.HF_HUB_ETAG_TIMEOUT = int(environment["HF_HUB_ETAG_TIMEOUT"])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        hub = self.server_hub
        path, _, query = self.path.partition("?")
        body = b""
        if "Content-Length" in self.headers:
            length = int(self.headers["Content-Length"])
            fault = hub.fault_of(f"{path} ")
            if fault == "drop":
                self.rfile.read(length // 2)
                self.close_connection = True
                return
            body = self.rfile.read(length)
            # some requests name their repository in the body only
            fault = fault or (hub.fault_of(body.decode()) if "/api/" in path else None)
        else:
            fault = hub.fault_of(f"{path} ")
        with hub.lock:
            hub.requests.append((self.command, path))
        try:
            if fault == "slow":
                time.sleep(3)
            elif fault == "503":
                # as a gateway does, which speaks no JSON
                self._send(503, b"<html>Service Unavailable</html>", [("Retry-After", "1")])
                return
            elif fault == "429":
                raise Refused(429, "Too Many Requests", headers=[("Retry-After", "1")])
            elif fault == "401":
                raise Refused(401, "Invalid credentials in Authorization header")
            elif fault == "403":
                raise Refused(403, "Access is restricted", "GatedRepo")
            elif fault == "drop":
                if self.command == "GET" and "/resolve/" in path:
                    self._resolve(path, cut=True)
                self.close_connection = True
                return
            with hub.lock:
                answer = self._answer(path, parse_qs(query), body)
            if fault == "lost":
                self.close_connection = True
            elif answer is not None:
                self._send(200, json.dumps(answer).encode())
        except Refused as error:
            headers = [("X-Error-Message", error.message), *error.headers]
            if error.code:
                headers.append(("X-Error-Code", error.code))
            self._send(
                error.status, json.dumps({"error": error.message, **error.more}).encode(), headers
            )
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _send(self, status, content, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name == "Content-Length" for name, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _user(self):
        given = self.headers.get("Authorization", "")
        if given and given != f"Bearer {TOKEN}":
            raise Refused(401, "Invalid credentials in Authorization header")
        return OWNER if given else None

    def _repo(self, repo_id, *, write=False, read=False):
        repo, user = self.server_hub.repos.get(repo_id), self._user()
        mine = user == repo_id.partition("/")[0]
        if repo is None or (repo.private and not mine):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if read and repo.gated and not mine:
            raise Refused(403, "Access to this model is restricted", "GatedRepo")
        if write and not mine:
            raise Refused(403, "Forbidden: you don't have write access")
        return repo

    def _answer(self, path, query, body):
        for method, pattern, function in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                return function(self, *map(unquote, found.groups()), query=query, body=body)
        raise Refused(404, f"no such endpoint: {self.command} {path}")

    def _create(self, query, body):
        given = json.loads(body)
        owner = given.get("organization") or self._user()
        repo_id = f"{owner}/{given['name']}"
        if self._user() != owner:
            raise Refused(403, f"you don't have the rights to create a model under {owner}")
        url = f"{self.server_hub.url}/{repo_id}"
        if repo_id in self.server_hub.repos:
            raise Refused(409, "You already created this model repo", url=url)
        private = given.get("private") or given.get("visibility") == "private"
        self.server_hub.add_repo(repo_id, private=private)
        return {"url": url}

    def _list(self, query, body):
        found = []
        for repo_id, repo in self.server_hub.repos.items():
            info = _info(repo_id, repo, repo.at("main"), self.server_hub)
            wanted = set(query.get("filter", [])) <= set(info["tags"])
            owner = query.get("author", [info["author"]])[0]
            if wanted and owner == info["author"] and (not repo.private or self._user() == owner):
                found.append(info)
        return found

    def _model(self, repo_id, revision="main", *, query, body):
        repo = self._repo(repo_id)
        return _info(repo_id, repo, repo.at(revision), self.server_hub)

    def _branch(self, repo_id, branch, query, body):
        repo = self._repo(repo_id, write=True)
        if branch in repo.branches:
            raise Refused(409, "Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        return {}

    def _validate(self, query, body):
        content = json.loads(body)["content"]
        try:
            metadata = yaml.safe_load(content.split("---\n")[1])
            assert isinstance(metadata, dict)
        except (AssertionError, IndexError, yaml.YAMLError):
            raise Refused(400, '{"errors": [{"message": "invalid YAML"}]}') from None
        return {"errors": [], "warnings": []}

    def _preupload(self, repo_id, revision, query, body):
        commit = self._repo(repo_id, write=True).at(revision)
        files = []
        for given in json.loads(body)["files"]:
            mode = "lfs" if given["path"].endswith(LARGE) else "regular"
            there = commit.files.get(given["path"])
            oid = there if isinstance(there, str | None) else _git_oid(there)
            files.append({"path": given["path"], "uploadMode": mode, "shouldIgnore": False})
            files[-1]["oid"] = oid
        return {"files": files}

    def _batch(self, repo_id, query, body):
        self._repo(repo_id, write=True)
        objects = []
        for given in json.loads(body)["objects"]:
            oid, href = given["oid"], f"{self.server_hub.url}/{repo_id}/large/{given['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            known = self.server_hub.path_of(repo_id, oid).exists()
            objects.append(given | ({} if known else {"actions": actions}))
        return {"transfer": "basic", "objects": objects}

    def _upload(self, repo_id, oid, query, body):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "the content is not what was announced")
        self.server_hub.store(repo_id, LARGE[0], body)
        return {}

    def _verify(self, repo_id, oid, query, body):
        if not self.server_hub.path_of(repo_id, oid).exists():
            raise Refused(404, "no such object")
        return {}

    def _commit(self, repo_id, revision, query, body):
        repo = self._repo(repo_id, write=True)
        head, files, message = repo.at(revision), None, ""
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                if value.get("parentCommit") not in (None, head.oid):
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
                files, message = dict(head.files), value["summary"]
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if not self.server_hub.path_of(repo_id, value["oid"]).exists():
                    raise Refused(400, f"{value['path']} was not uploaded")
                files[value["path"]] = value["oid"]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        pull = None
        if "create_pr" in query:
            revision = f"refs/pr/{len(repo.branches)}"
            repo.branches[revision] = head.oid
            pull = f"{self.server_hub.url}/{repo_id}/discussions/1"
        oid = repo.commit(revision, files, message)
        address = f"{self.server_hub.url}/{repo_id}/commit/{oid}"
        answer = {"success": True, "commitOid": oid, "commitUrl": address}
        return answer | ({"pullRequestUrl": pull} if pull else {})

    def _resolve(self, path, cut=False, **_):
        found = re.fullmatch(_RESOLVE, path)
        repo_id, revision, name = map(unquote, found.groups())
        commit = self._repo(repo_id, read=True).at(revision)
        if name not in commit.files:
            # with the commit, or the client would not believe that it is missing
            message = f"{name} does not exist"
            head = [("X-Repo-Commit", commit.oid)]
            raise Refused(404, message, "EntryNotFound", head)
        content = commit.files[name]
        headers = [("X-Repo-Commit", commit.oid), ("Accept-Ranges", "bytes")]
        if isinstance(content, str):
            content, oid = self.server_hub.path_of(repo_id, content).read_bytes(), content
            headers += [("X-Linked-Etag", f'"{oid}"'), ("X-Linked-Size", str(len(content)))]
        else:
            oid = _git_oid(content)
        headers.append(("ETag", f'"{oid}"'))
        status, first = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if first:
            start, end = int(first[1]), int(first[2] or len(content) - 1)
            headers.append(("Content-Range", f"bytes {start}-{end}/{len(content)}"))
            status, content = 206, content[start : end + 1]
        if self.command == "HEAD" or cut:
            headers.append(("Content-Length", str(len(content))))
        self._send(status, content[: len(content) // 2] if cut else content, headers)


def _git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _info(repo_id, repo, commit, hub):
    siblings = []
    for name, content in commit.files.items():
        if isinstance(content, str):
            size = hub.path_of(repo_id, content).stat().st_size
            lfs = {"sha256": content, "size": size, "pointerSize": 134}
            siblings.append({"rfilename": name, "size": size, "blobId": content[:40], "lfs": lfs})
        else:
            oid = _git_oid(content)
            siblings.append({"rfilename": name, "size": len(content), "blobId": oid})
    card = commit.files.get("README.md", b"").decode().split("---\n")
    metadata = yaml.safe_load(card[1]) if len(card) > 2 else {}
    return {
        "_id": "0",
        "id": repo_id,
        "modelId": repo_id,
        "author": repo_id.partition("/")[0],
        "sha": commit.oid,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": metadata.get("tags", []),
        "cardData": metadata,
        "siblings": siblings,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "createdAt": "2026-01-01T00:00:00.000Z",
    }


_ID = r"/([^/]+/[^/]+)"
_RESOLVE = _ID + r"/resolve/([^/]+)/(.+)"
_ROUTES = [
    ("POST", r"/api/repos/create", _Handler._create),
    ("GET", r"/api/models", _Handler._list),
    ("POST", r"/api/validate-yaml", _Handler._validate),
    ("GET", rf"/api/models{_ID}", _Handler._model),
    ("GET", rf"/api/models{_ID}/revision/([^/]+)", _Handler._model),
    ("POST", rf"/api/models{_ID}/branch/([^/]+)", _Handler._branch),
    ("POST", rf"/api/models{_ID}/preupload/([^/]+)", _Handler._preupload),
    ("POST", rf"/api/models{_ID}/commit/([^/]+)", _Handler._commit),
    ("POST", rf"{_ID}\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", rf"{_ID}/large/([^/]+)", _Handler._upload),
    ("POST", rf"{_ID}/large/([^/]+)/verify", _Handler._verify),
    (
        "GET HEAD",
        _RESOLVE,
        lambda handler, *_, query, body: handler._resolve(urlsplit(handler.path).path),
    ),
]
