"""A stand-in for the model hub on this machine: repositories in memory, as many calls as `huggingface_hub` makes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """`repos`: the files of each repository by name; `gated`: those whose terms nobody has accepted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def sha_of(files: dict[str, bytes]) -> str:
    sums = sorted((name, hashlib.sha1(content).hexdigest()) for name, content in files.items())
    return hashlib.sha1(repr(sums).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def reply(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            record = json.loads(body)
            name = f"{record.get('organization') or 'me'}/{record['name'].rpartition('/')[2]}"
            self.server.repos.setdefault(name, {})
            return self.reply({"url": f"{self.server.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        _, _, _, owner, name, action, *_ = path.split("/")
        if action == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self.reply({"files": [f | {"shouldIgnore": False} for f in files]})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.server.repos[f"{owner}/{name}"][entry["value"]["path"]] = content
        sha = sha_of(self.server.repos[f"{owner}/{name}"])
        url = f"{self.server.url}/{owner}/{name}/commit/{sha}"
        return self.reply({"commitUrl": url, "commitOid": sha, "success": True})

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        repo, rest = "/".join(parts[:2]), parts[2:]
        files = self.server.repos.get(repo)
        if files is None:
            return self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        if repo in self.server.gated and (not api or rest == ["auth-check"]):
            return self.reply({"error": "gated"}, 403, X_Error_Code="GatedRepo")
        if api and rest and rest[0] == "tree":
            return self.reply([
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ])  # fmt: skip
        if api:
            gated = "auto" if repo in self.server.gated else False
            siblings = [{"rfilename": name} for name in files]
            return self.reply({"id": repo, "sha": sha_of(files), "gated": gated, "siblings": siblings})
        name = "/".join(rest[2:])
        if name not in files:
            return self.reply({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        etag = hashlib.sha1(files[name]).hexdigest()
        return self.reply(files[name], ETag=f'"{etag}"', X_Repo_Commit=sha_of(files))

    do_HEAD = do_GET
