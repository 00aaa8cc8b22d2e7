"""A Hub on 127.0.0.1 that the real huggingface_hub client can push to and pull from; standard library only.

    with LoopbackHub() as hub:
        hub.add_repo("owner/tiny", {"config.json": b"{}"})
        hub.fail("GET */config.json", "cut", times=1)
        hf_hub_download("owner/tiny", "config.json", endpoint=hub.url)
        assert hub.count("GET */config.json") == 2

`python tests/loopback_hub.py` prints its URL and serves until Ctrl-C. Models only; uploads by LFS, so the
client needs HF_HUB_DISABLE_XET=1 (hub_fixtures.py sets that). What it does not speak is answered with 501.
Valid tokens: OWNER ("hf_owner"), a member of every repo that it creates, and STRANGER ("hf_stranger").
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from loopback_api import OWNER, STRANGER, USERS, HubApi, Request, Response, as_error
from loopback_store import Blob, HubError, Repo, goes_to_lfs

__all__ = ["OWNER", "STRANGER", "LoopbackHub"]

Match = str | Callable[[Request], bool]


def _wrong_etag(response: Response) -> Response:
    etags = {name: f'"{"0" * 40}"' for name in ("ETag", "X-Linked-Etag") if name in response.headers}
    return replace(response, headers={**response.headers, **etags})


def _flip_last_byte(response: Response) -> Response:
    return replace(response, body=response.body[:-1] + bytes(byte ^ 0xFF for byte in response.body[-1:]))


# Faults in place of the answer: the request is not carried out.
REFUSALS: dict[str, Response] = {
    "404": as_error(HubError(404, "Entry not found", "EntryNotFound")),
    "401-gated": as_error(HubError(401, "Access to this model is restricted", "GatedRepo")),
    "500": as_error(HubError(500, "Internal Server Error")),
    "503": as_error(HubError(503, "Service Unavailable")),
    "refuse": Response(dropped=True),
}
# Faults in the answer: the request is carried out. BODIES spoil bodies and leave HEAD alone.
SPOILERS: dict[str, Callable[[Response], Response]] = {
    "slow": lambda response: response,
    "wrong-etag": _wrong_etag,
    "cut": lambda response: replace(response, cut_at=len(response.body) // 2),
    "truncate": lambda response: replace(response, body=response.body[: len(response.body) // 2]),
    "corrupt": _flip_last_byte,
}
BODIES = ("cut", "truncate", "corrupt")


@dataclass
class Fault:
    """A fault switched on by `LoopbackHub.fail`; `times` counts down, None is for ever."""

    match: Match
    name: str
    times: int | None
    delay: float

    def hits(self, request: Request) -> bool:
        if self.times == 0 or (request.method == "HEAD" and self.name in BODIES):
            return False
        return self.match(request) if callable(self.match) else fnmatchcase(request.line, self.match)


class LoopbackHub(HubApi):
    """The server: `url`, `repos` (id -> Repo) and `requests`, every request so far in order of arrival."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        super().__init__(f"http://127.0.0.1:{self._server.server_port}")

    def __enter__(self) -> "LoopbackHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening: from now on connections are refused. May be called twice."""
        if not self.closing.is_set():
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def add_repo(self, repo_id: str, files: Mapping[str, bytes], **access: bool) -> Repo:
        """A repo of OWNER with `files` on main, made without a request; access: private=True, gated=True."""
        repo = self.repos[repo_id] = Repo(repo_id, {USERS[OWNER]}, **access)
        blobs = {path: Blob(data, goes_to_lfs(path, len(data))) for path, data in files.items()}
        self.lfs_objects.update({blob.sha256: blob.data for blob in blobs.values() if blob.lfs})
        repo.commit("main", {**repo.at("main").files, **blobs}, "files of a test")
        return repo

    def fail(self, match: Match, fault: str, *, times: int | None = None, delay: float = 1.0) -> None:
        """Spoil the next `times` requests (None: all) that match; of several faults, the oldest wins.

        Args:
            match: a glob on "METHOD /path" ("*config.json", "GET *.safetensors"), or a predicate of Request.
            fault: a key of REFUSALS or SPOILERS.
            delay: seconds that "slow" waits.
        """
        if fault not in REFUSALS and fault not in SPOILERS:
            raise ValueError(f"unknown fault '{fault}', expected one of {[*REFUSALS, *SPOILERS]}")
        self._faults.append(Fault(match, fault, times, delay if fault == "slow" else 0.0))

    def heal(self) -> None:
        """Switch all faults off."""
        self._faults.clear()

    def count(self, glob: str) -> int:
        """How many requests so far match, such as "GET */config.json" or "*"."""
        return sum(fnmatchcase(request.line, glob) for request in self.requests)

    def respond(self, request: Request) -> Response:
        with self._lock:
            self.requests.append(request)
            fault = next((fault for fault in self._faults if fault.hits(request)), None)
            if fault is None:
                return self.answer(request)
            if fault.times is not None:
                fault.times -= 1
            if fault.name in REFUSALS:
                return REFUSALS[fault.name]
            return replace(SPOILERS[fault.name](self.answer(request)), delay=fault.delay)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for the answers under way, so no socket outlives the hub
    hub: LoopbackHub


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: one request a connection, which is what lets a fault close it."""

    timeout = 10
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        response = self.server.hub.respond(Request(self.command, self.path, self.headers, body))
        self.server.hub.closing.wait(response.delay)
        if not response.dropped:
            with suppress(ConnectionError):  # a client that ran out of patience
                self._send(response)

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: response.cut_at])

    def log_message(self, *_: object) -> None:
        """Quiet: tests read `LoopbackHub.requests`."""

    do_GET = do_HEAD = do_POST = do_PUT = _serve


if __name__ == "__main__":
    with LoopbackHub() as hub, suppress(KeyboardInterrupt):
        print(hub.url, flush=True)
        threading.Event().wait()
