"""Model repositories of the loopback Hub, in memory: files, commits, branches, tags. No HTTP here."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npy", ".npz", ".msgpack", ".h5", ".zip", ".gz")
LFS_FROM_BYTES = 10 * 1024 * 1024
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)


class HubError(Exception):
    """An answer other than 2xx; from `code` (X-Error-Code) the client picks its exception class."""

    def __init__(self, status: int, message: str, code: str = "", *, commit: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.commit = status, message, code, commit


def goes_to_lfs(path: str, size: int) -> bool:
    """The Hub's default: the suffixes in .gitattributes, and whatever is above 10 MiB."""
    return path.endswith(LFS_SUFFIXES) or size > LFS_FROM_BYTES


@dataclass(frozen=True)
class Blob:
    """One version of one file."""

    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        """git's sha1 of the content (of an LFS file too, where the real Hub gives that of the pointer)."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def etag(self) -> str:
        """After this the client names its cached blob."""
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    oid: str
    files: Mapping[str, Blob]
    title: str
    parent: str | None


def edited(files: Mapping[str, Blob], edits: Iterable[dict], lfs_objects: Mapping[str, bytes]) -> dict:
    """`files` after the lines of a commit request, each {"key": kind of edit, "value": {"path": ...}}."""
    files = dict(files)
    for edit in edits:
        value, path = edit["value"], edit["value"]["path"]
        match edit["key"]:
            case "file":
                files[path] = Blob(base64.b64decode(value["content"]))
            case "lfsFile" if value["oid"] in lfs_objects:
                files[path] = Blob(lfs_objects[value["oid"]], lfs=True)
            case "deletedFile" if path in files:
                del files[path]
            case "deletedFile":
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            case "deletedFolder":
                folder = path.rstrip("/") + "/"
                files = {name: blob for name, blob in files.items() if not name.startswith(folder)}
            case key:
                raise HubError(400, f"'{key}' of '{path}' is unknown, or its content was not uploaded before")
    return files


@dataclass
class Repo:
    """A model repository; like the real one it is born with a commit of .gitattributes on main.

    `members` are the users who may write to it, and read it although it is private or gated.
    """

    id: str
    members: set[str] = field(default_factory=set)
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)  # oid -> commit
    refs: dict[str, str] = field(default_factory=dict)  # "refs/heads/main" -> oid

    def __post_init__(self) -> None:
        first = self._record({".gitattributes": Blob(GITATTRIBUTES.encode())}, "initial commit", None)
        self.refs["refs/heads/main"] = first.oid

    def ref(self, revision: str) -> str | None:
        """Full name of a branch, tag or pull request ("refs/pr/1"); None for all else, commits included."""
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        return next((name for name in names if name in self.refs), None)

    def at(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request or full commit id stands for."""
        oid = self.refs.get(self.ref(revision) or "", revision)
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def commit(self, revision: str, files: Mapping[str, Blob], title: str) -> Commit:
        """Put a commit of exactly `files` on a branch or pull request."""
        ref = self.ref(revision)
        if ref is None or ref.startswith("refs/tags/"):
            raise HubError(400, f"'{revision}' is not a branch, nothing can be committed to it")
        commit = self._record(files, title, self.refs[ref])
        self.refs[ref] = commit.oid
        return commit

    def add_ref(self, name: str, revision: str) -> None:
        if name in self.refs:
            raise HubError(409, f"{name} exists already")
        self.refs[name] = self.at(revision).oid

    def _record(self, files: Mapping[str, Blob], title: str, parent: str | None) -> Commit:
        content = [self.id, len(self.commits), title, {path: files[path].etag for path in sorted(files)}]
        oid = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[oid] = Commit(oid, dict(files), title, parent)
        return self.commits[oid]
