"""Writing files so that they are whole, or not there, and making the folders for them."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_DIGITS = 16  # of the name of a temporary file


def replace_file(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` so that a reader, also after a crash, finds all old bytes or all new ones.

    Raises: OSError with the path.
    """
    _write(path, data, os.replace)


def create_file(path: str | os.PathLike, data: bytes) -> None:
    """The same where no file is. Raises: FileExistsError if there is one, also for all but one of several processes
    that do this at once."""
    _write(path, data, _link)


def _write(path: str | os.PathLike, data: bytes, put: Callable[[Path, str | os.PathLike], None]) -> None:
    # not the tempfile module, whose files only their owner may read
    temporary = Path(path).with_name(temporary_name())
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put(temporary, path)
    except OSError as error:  # that of a full disk names no file, others the temporary one
        raise type(error)(error.errno, error.strerror or str(error), os.fspath(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: str | os.PathLike) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.replace(temporary, path)


def make_folder(folder: Path) -> None:
    """Make `folder`, if need be, to write files to.

    Raises: NotADirectoryError or PermissionError that names what is in the way, and what to do; other OSErrors.
    """
    with suppress(FileExistsError, NotADirectoryError, PermissionError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise NotADirectoryError(f"can't write to the folder '{folder}': '{there}' is a file; take another folder")
    raise PermissionError(
        f"can't write to the folder '{folder}': this user may not write to '{there}'; take another folder, or change "
        "its permissions"
    )


def temporary_name() -> str:
    """A new name for a file that `remove_leftovers` may remove."""
    return f".{secrets.token_hex(_DIGITS // 2)}.tmp"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote; nobody may write there now."""
    for leftover in folder.glob(f".{'[0-9a-f]' * _DIGITS}.tmp"):
        leftover.unlink(missing_ok=True)
