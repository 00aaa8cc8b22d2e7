"""What the loopback Hub answers to each request of huggingface_hub: one method of HubApi an endpoint."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from loopback_store import Commit, HubError, Repo, edited, goes_to_lfs

OWNER, STRANGER = "hf_owner", "hf_stranger"  # the two tokens that are valid here
USERS = {OWNER: "owner", STRANGER: "stranger"}


@dataclass(frozen=True)
class Request:
    """One request as received."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def line(self) -> str:
        """What globs are matched with: "GET /owner/tiny/resolve/main/config.json"."""
        return f"{self.method} {unquote(urlsplit(self.url).path)}"

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def user(self) -> str | None:
        """Name behind the bearer token, None without one."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise HubError(401, "Invalid credentials in Authorization header")
        return USERS.get(token)

    def known_user(self) -> str:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return self.user

    def json(self) -> dict:
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before the first byte
    cut_at: int | None = None  # the connection closes after this many bytes of the body
    dropped: bool = False  # the connection closes without an answer


def as_json(content: object, status: int = 200) -> Response:
    return Response(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def as_error(error: HubError) -> Response:
    headers = {"X-Error-Code": error.code, "X-Error-Message": error.message, "X-Repo-Commit": error.commit}
    body = json.dumps({"error": error.message}).encode()
    return Response(error.status, body, {name: value for name, value in headers.items() if value})


ROUTES: list[tuple[str, re.Pattern, Callable]] = []


def route(method: str, path: str) -> Callable[[Callable], Callable]:
    """Register an endpoint; each {part} of the path, unquoted, is an argument.

    {repo} is "name/space" and {file} the rest of the path; others have no "/", the client sends it as %2F.
    """
    pattern = path.replace("{repo}", r"(?P<repo>[^/]+/[^/]+)").replace("{file}", r"(?P<file>.+)")
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))

    def register(endpoint: Callable) -> Callable:
        ROUTES.append((method, pattern, endpoint))
        return endpoint

    return register


class HubApi:
    """The state of the Hub, and what each endpoint makes of it: a Response, or content to be sent as JSON."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.repos: dict[str, Repo] = {}  # by id
        self.lfs_objects: dict[str, bytes] = {}  # by sha256

    def answer(self, request: Request) -> Response:
        path = urlsplit(request.url).path
        try:
            for method, pattern, endpoint in ROUTES:
                if method == request.method and (found := pattern.fullmatch(path)):
                    parts = {name: unquote(part) for name, part in found.groupdict().items()}
                    content = endpoint(self, request, **parts)
                    return content if isinstance(content, Response) else as_json(content)
            raise HubError(501, f"the loopback Hub does not speak {request.line}")
        except HubError as error:
            return as_error(error)

    def readable(self, request: Request, repo_id: str) -> Repo:
        """For those who may not read it, a private repo does not exist."""
        user, repo = request.user, self.repos.get(repo_id)
        if repo is None or (repo.private and user not in repo.members):
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, request: Request, repo_id: str) -> Repo:
        """Members write; whoever has a token may open a pull request."""
        repo, user = self.readable(request, repo_id), request.known_user()
        if user not in repo.members and "create_pr" not in request.query:
            raise HubError(403, f"You don't have the rights to write to {repo_id}")
        return repo

    @route("GET", "/api/whoami-v2")
    def whoami(self, request: Request) -> dict:
        return {"type": "user", "name": request.known_user(), "orgs": []}

    @route("POST", "/api/repos/create")
    def create_repo(self, request: Request) -> Response:
        wanted, user = request.json(), request.known_user()
        repo_id = f"{wanted.get('organization') or user}/{wanted['name']}"
        status = 409 if repo_id in self.repos else 200
        self.repos.setdefault(repo_id, Repo(repo_id, {user}, wanted.get("visibility") == "private"))
        return as_json({"url": f"{self.url}/{repo_id}"}, status)

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self, request: Request) -> dict:
        return {"errors": [], "warnings": []}

    @route("POST", "/api/models/{repo}/preupload/{rev}")
    def preupload(self, request: Request, repo: str, rev: str) -> dict:
        """Which files go to LFS, and what is there already."""
        present = self.writable(request, repo).at(rev).files

        def plan(path: str, size: int) -> dict:
            mode = "lfs" if goes_to_lfs(path, size) else "regular"
            oid = present[path].etag if path in present else None
            return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        return {"files": [plan(file["path"], file["size"]) for file in request.json()["files"]]}

    @route("POST", "/{repo}.git/info/lfs/objects/batch")
    def lfs_batch(self, request: Request, repo: str) -> dict:
        """Where to upload what is not there already."""
        self.readable(request, repo)
        request.known_user()

        def plan(wanted: dict) -> dict:
            upload = {"href": f"{self.url}/lfs/{wanted['oid']}"}
            verify = {"href": f"{self.url}/{repo}.git/info/lfs/objects/verify"}
            present = wanted["oid"] in self.lfs_objects
            return wanted if present else {**wanted, "actions": {"upload": upload, "verify": verify}}

        return {"transfer": "basic", "objects": [plan(wanted) for wanted in request.json()["objects"]]}

    @route("PUT", "/lfs/{oid}")
    def lfs_upload(self, request: Request, oid: str) -> dict:
        """Without a token: the real Hub gives a signed URL of its storage."""
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise HubError(400, f"the content is not that of sha256 {oid}")
        self.lfs_objects[oid] = request.body
        return {}

    @route("POST", "/{repo}.git/info/lfs/objects/verify")
    def lfs_verify(self, request: Request, repo: str) -> dict:
        wanted = request.json()
        if len(self.lfs_objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(404, f"no LFS object {wanted['oid']} of {wanted['size']} bytes")
        return {}

    @route("POST", "/api/models/{repo}/commit/{rev}")
    def commit(self, request: Request, repo: str, rev: str) -> dict:
        target = self.writable(request, repo)
        header, *edits = [json.loads(line) for line in request.body.splitlines()]
        base, made = target.at(rev), {}
        if header["value"].get("parentCommit", base.oid) != base.oid:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = edited(base.files, edits, self.lfs_objects)
        if "create_pr" in request.query:
            number = 1 + sum(name.startswith("refs/pr/") for name in target.refs)
            target.add_ref(f"refs/pr/{number}", rev)
            rev, made = f"refs/pr/{number}", {"pullRequestUrl": f"{self.url}/{repo}/discussions/{number}"}
        oid = target.commit(rev, files, header["value"]["summary"]).oid
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{repo}/commit/{oid}", **made}

    @route("POST", "/api/models/{repo}/tag/{rev}")
    def tag(self, request: Request, repo: str, rev: str) -> dict:
        self.writable(request, repo).add_ref(f"refs/tags/{request.json()['tag']}", rev)
        return {}

    @route("POST", "/api/models/{repo}/branch/{branch}")
    def branch(self, request: Request, repo: str, branch: str) -> dict:
        start = request.json().get("startingPoint", "main")
        self.writable(request, repo).add_ref(f"refs/heads/{branch}", start)
        return {}

    @route("GET", "/api/models/{repo}/refs")
    def refs(self, request: Request, repo: str) -> dict:
        refs = self.readable(request, repo).refs
        kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/", "converts": "-"}

        def listed(prefix: str) -> list[dict]:
            names = [name for name in refs if name.startswith(prefix)]
            return [{"name": n.removeprefix(prefix), "ref": n, "targetCommit": refs[n]} for n in names]

        return {kind: listed(prefix) for kind, prefix in kinds.items()}

    @route("GET", "/api/models/{repo}")
    @route("GET", "/api/models/{repo}/revision/{rev}")
    def info(self, request: Request, repo: str, rev: str = "main") -> dict:
        found = self.readable(request, repo)
        commit = found.at(rev)
        state = {"private": found.private, "gated": "manual" if found.gated else False, "disabled": False}
        return {"id": repo, "sha": commit.oid, "siblings": [{"rfilename": p} for p in commit.files], **state}

    @route("GET", "/api/models/{repo}/tree/{rev}")
    def tree(self, request: Request, repo: str, rev: str) -> list[dict]:
        """All files and no folders, whatever is asked for."""
        files = self.readable(request, repo).at(rev).files

        def entry(path: str) -> dict:
            blob, size = files[path], len(files[path].data)
            lfs = {"lfs": {"oid": blob.sha256, "size": size, "pointerSize": 130}} if blob.lfs else {}
            return {"type": "file", "path": path, "oid": blob.git_oid, "size": size, **lfs}

        return [entry(path) for path in sorted(files)]

    @route("HEAD", "/{repo}/resolve/{rev}/{file}")
    @route("GET", "/{repo}/resolve/{rev}/{file}")
    def resolve(self, request: Request, repo: str, rev: str, file: str) -> Response:
        found, user = self.readable(request, repo), request.user
        if found.gated and user not in found.members:
            raise HubError(403 if user else 401, f"Access to model {repo} is restricted", "GatedRepo")
        commit = found.at(rev)
        if file not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", commit=commit.oid)
        return _ranged(_content(commit, file), request.headers.get("Range"))


def _content(commit: Commit, path: str) -> Response:
    """For LFS files the real Hub redirects to its storage; here they come at once, with its X-Linked-*."""
    blob = commit.files[path]
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))} if blob.lfs else {}
    return Response(200, blob.data, {**headers, **linked})


def _ranged(whole: Response, wanted: str | None) -> Response:
    """The part that a "bytes=first-last" or "bytes=first-" header asks for."""
    found, size = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or ""), len(whole.body)
    if found is None:
        return whole
    first, last = int(found[1]), min(int(found[2] or size), size - 1)
    if first > last:
        return Response(416, headers={"Content-Range": f"bytes */{size}"})
    headers = {**whole.headers, "Content-Range": f"bytes {first}-{last}/{size}"}
    return Response(206, whole.body[first : last + 1], headers)
