"""The Hub: fetching files of one commit, and saying what to do when it can't be done."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or, from 2.0 on, httpx2
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

logger = logging.getLogger(__name__)

SECOND_TRY_AFTER = 1.0  # seconds
_MAYBE_A_PATH = (RepositoryNotFoundError, OfflineModeIsEnabled, LocalEntryNotFoundError)  # with a typing error in it


class HubError(OSError):
    """The Hub did not give or take what was asked; the message says what to do, `__cause__` is the client's error.

    Example:
        >>> from aws_lottery import HubError, SignedMask
        >>> try:  # doctest: +SKIP
        ...     mask = SignedMask.from_pretrained("org/resnet50-aws-0.14", revision="v1")
        ... except HubError as error:
        ...     print(error)
    """

    is_unreachable = False  # no connection, or it broke off


def is_folder(source: str | Path) -> bool:
    """Whether `source` is a folder here, as opposed to a repository on the Hub.

    Args:
        source: a path, or an id on the Hub.

    Returns:
        False for what may be a repository; nobody is asked.

    Raises:
        FileNotFoundError: For what is neither: a path without a folder, or no possible name of a repository.
    """
    text = str(source)
    if Path(source).is_dir():
        return True
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1:
        raise FileNotFoundError(
            f"no folder '{text}'; give a folder that save_pretrained wrote, or a Hub id (owner/name)"
        )
    return False


def fetch(
    repo_id: str,
    files: Sequence[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    max_bytes: int | None = None,
    **options: Any,
) -> Path:
    """The folder in the cache that holds `files`, all of one commit; options are those of hf_hub_download.

    If there is no connection, or it breaks off, what is in the cache is taken, with a warning.

    Args:
        repo_id: of the repository.
        files: names within `subfolder`.
        revision: commit, tag or branch; None: the newest commit of main.
        subfolder: of the repository; None: its root.
        local_files_only: ask nothing of the Hub.
        force_download: download the files even if they are there.
        max_bytes: of a file; a larger one is not downloaded. None: any.
        options: as above.

    Returns:
        The folder, or the `subfolder` in it.

    Raises:
        HubError: If the Hub does not give them.
        FileNotFoundError: Where `repo_id` is no possible name of a repository.
        ValueError: For local_files_only with force_download, or for a file that is too large.
        OSError: With its path, if the cache can't be written.
    """
    if local_files_only and force_download:
        raise ValueError("local_files_only=True asks nothing of the Hub, force_download=True always; give one of them")
    options |= {"token": options.get("token"), "max_bytes": max_bytes}
    files = [f"{subfolder.strip('/')}/{name}" if subfolder else name for name in files]
    try:
        if not (local_files_only or constants.is_offline_mode()):
            _ask(repo_id, files[0], revision, options["token"])
        path = _fetch(
            repo_id, files, revision, force_download=force_download, local_files_only=local_files_only, **options
        )
    except HubError as error:
        try:
            if force_download or local_files_only or not error.is_unreachable:
                raise error
            path = _fetch(repo_id, files, revision, local_files_only=True, **options)
        except HubError:
            if error.is_unreachable or isinstance(error.__cause__, _MAYBE_A_PATH):
                raise HubError(f"no folder '{repo_id}' here, and {error}") from error.__cause__
            raise error from error.__cause__
        logger.warning("%s. Taken from the cache: commit %s", error, path.name)
    return path / (subfolder or "")


def _ask(repo_id: str, file: str, revision: str | None, token: str | bool | None) -> None:
    """Ask the Hub for a file twice at most, where hf_hub_download would go on for 23 s, five times, if nobody answers.

    Raises:
        HubError: If nobody does; what an answer says is for hf_hub_download to tell.
    """
    with explained(repo_id, revision):
        url, start = hf_hub_url(repo_id, file, revision=revision), time.monotonic()
        for wait in (SECOND_TRY_AFTER, None):
            try:
                get_hf_file_metadata(url, token=token)
            except HfHubHTTPError:
                return
            except (HTTPError, OSError):
                if wait is None or time.monotonic() - start > wait:  # it was waited for already
                    raise
                time.sleep(wait)
            else:
                return


def _fetch(
    repo_id: str, files: Sequence[str], revision: str | None, *, max_bytes: int | None = None, **options: Any
) -> Path:
    path = Path()
    for name in files:
        if max_bytes is not None:
            revision = _commit_of_small(repo_id, name, revision, max_bytes, options)
        with explained(repo_id, revision):
            path = Path(hf_hub_download(repo_id, name, revision=revision, **options)).parents[name.count("/")]
            revision = path.name  # .../snapshots/<commit>: a push in between must not mix two masks
    return path


def _commit_of_small(
    repo_id: str, name: str, revision: str | None, max_bytes: int, options: dict[str, Any]
) -> str | None:
    """The commit whose file of that name was looked at. Raises: HubError; ValueError if the file is too large."""
    with explained(repo_id, revision):
        info = hf_hub_download(repo_id, name, revision=revision, dry_run=True, **options)
    if info.file_size is None or info.file_size > max_bytes:
        size = "an unknown number of" if info.file_size is None else f"{info.file_size:,}"
        raise ValueError(
            f"{name} of '{repo_id}' at '{revision or 'main'}' has {size} bytes, expected at most {max_bytes:,}; it was "
            "not downloaded"
        )
    return info.commit_hash


def prepare(
    repo_id: str, *, private: bool | None, branch: str | None, create_pr: bool | None, token: str | bool | None
) -> tuple[str, str | None]:
    """Make the repository and the branch where they are missing.

    Args:
        repo_id: without an owner, it is that of the token.
        private: whether a repository that is made is private; None: as its owner has it.
        branch: None: main.
        create_pr: then no branch is made.
        token: with write access.

    Returns:
        The full id, and the card that is there.

    Raises:
        HubError: If the Hub does not make or show the repository.
        ValueError: If the card is not text.
    """
    api = HfApi(token=token)
    with explained(repo_id, branch):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if branch is not None and not create_pr:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        try:
            card = Path(hf_hub_download(repo_id, "README.md", revision=branch, token=token))
        except RemoteEntryNotFoundError:
            return repo_id, None
    try:
        return repo_id, card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the README.md of '{repo_id}' is not UTF-8, mend or remove it: {error}") from error


@contextmanager
def explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors that say what is wrong and what to do.

    Nothing else may be done in the block: a ValueError in it is taken for one of the client about an answer.
    """
    try:
        yield
    except HFValidationError as error:
        raise FileNotFoundError(f"'{repo_id}' is neither a folder nor a Hub id (owner/name): {error}") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        # the client wraps what happened in an error of its cache, of an upload, or of a download that is forced
        wrapped = not isinstance(error, HTTPError) and isinstance(error.__cause__, HTTPError | OSError)
        reason = error.__cause__ if wrapped else error
        if isinstance(reason, OSError) and reason.errno is not None:  # of this machine; that of a full disk has no path
            raise type(reason)(reason.errno, reason.strerror, reason.filename or constants.HF_HUB_CACHE) from error
        advice = _advice(reason)
        explained = HubError(advice.format(repo_id=repo_id, revision=revision or "main", error=reason))
        explained.is_unreachable = advice == UNREACHABLE
        raise explained from error


def _advice(error: BaseException | None) -> str:
    for kind, advice in ADVICE:
        if isinstance(error, kind):
            return advice
    if isinstance(error, HfHubHTTPError):
        return next((advice for codes, advice in STATUS if error.response.status_code in codes), REFUSED)
    return UNREACHABLE


LOG_IN = "log in (`hf auth login`, HF_TOKEN or token=)"
ADVICE = (  # the first that fits
    (GatedRepoError, f"'{{repo_id}}' is gated: ask for access on its page on the Hub, and {LOG_IN} as who has it"),
    (
        RepositoryNotFoundError,
        f"no repository '{{repo_id}}' on the Hub: check the name; if it is private, {LOG_IN}",
    ),
    (RevisionNotFoundError, "'{repo_id}' has no branch, tag or commit '{revision}': check the revision"),
    (RemoteEntryNotFoundError, "'{repo_id}' at '{revision}' has no signed mask, check id and revision: {error}"),
    (
        OfflineModeIsEnabled,
        "HF_HUB_OFFLINE is set, but '{repo_id}' at '{revision}' is not in the cache, or is to be written: unset it",
    ),
    (LocalEntryNotFoundError, "'{repo_id}' at '{revision}' is not in the cache: load it once without local_files_only"),
)
STATUS = (
    ((401,), f"the Hub does not accept the token for '{{repo_id}}': {LOG_IN}"),
    ((403,), "the token has no right to do that with '{repo_id}', it may lack write access: {error}"),
    (range(500, 600), "the Hub itself failed on '{repo_id}', try again later: {error}"),
)
REFUSED = "the Hub refused that for '{repo_id}': {error}"
UNREACHABLE = (  # an answer that is not whole JSON, or a file of another length, is a connection that broke off, too
    "no connection to the Hub, or it broke off, for '{repo_id}'; check network and proxy and try again: {error}"
)
