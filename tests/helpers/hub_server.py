"""A small Hugging Face hub on this machine: one commit of each dataset, over the calls that its clients make."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_server(datasets: dict[str, dict[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve ``{repo: {file: bytes}}``; yields the endpoint and the list of requests so far (``METHOD /path``)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = re.fullmatch(
                r"/(?:(api)/)?datasets/([^/]+/[^/]+)(?:/(resolve|revision|paths-info|tree)/([^/]+)/?(.*))?", path
            )
            if path == "/":
                return self.reply(200)
            if not found or found[2] not in datasets:
                return self.reply(
                    404,
                    b'{"error": "Repository not found"}',
                    Content_Type="application/json",
                    X_Error_Code="RepoNotFound",
                )
            files = datasets[found[2]]
            if found[4] not in (None, "main", SHA):
                return self.reply(
                    404,
                    b'{"error": "Invalid rev id"}',
                    Content_Type="application/json",
                    X_Error_Code="RevisionNotFound",
                )
            entries = {
                name: {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            }
            if found[3] == "resolve":
                if found[5] not in files:
                    return self.reply(404, b"Entry not found", X_Error_Code="EntryNotFound", X_Repo_Commit=SHA)
                return self.reply(200, files[found[5]], ETag=f'"{entries[found[5]]["oid"]}"', X_Repo_Commit=SHA)
            if found[3] == "paths-info":
                wanted = (
                    json.loads(body)["paths"]
                    if body[:1] == b"{"
                    else [unquote(part.split("=")[1]) for part in body.decode().split("&") if part.startswith("paths=")]
                )
                answer: object = [entries[name] for name in wanted if name in entries]
            elif found[3] == "tree":
                inside = {
                    name.removeprefix(f"{found[5]}/") if found[5] else name: entry
                    for name, entry in entries.items()
                    if not found[5] or name.startswith(f"{found[5]}/")
                }
                folders = {name.split("/")[0] for name in inside if "/" in name}
                answer = [
                    entry for name, entry in inside.items() if "/" not in name or "recursive=true" in self.path.lower()
                ]
                answer += [
                    {"type": "directory", "path": "/".join(filter(None, (found[5], name))), "size": 0, "oid": "0"}
                    for name in sorted(folders)
                ]
            else:
                answer = {
                    "id": found[2],
                    "sha": SHA,
                    "private": False,
                    "gated": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                    "siblings": [
                        {"rfilename": name, "size": len(data), "blobId": entries[name]["oid"]}
                        for name, data in files.items()
                    ],
                }
            self.reply(200, json.dumps(answer).encode(), Content_Type="application/json")

        do_GET = do_HEAD = do_POST = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
