"""Where the page may take masks from, and how large they may be: on one's own machine, and as a public Space."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..mask import SignedMask
from ..mask_file import hub, pretrained

MAX_CARD_BYTES = 1 << 18
PUBLIC_PARAMETERS = 50_000_000  # of a mask, in a Space; ResNet-50 has 25.6 million
PUBLIC_BYTES = 2 * PUBLIC_PARAMETERS  # of a file, which is compressed: far more than such a mask needs
CHECKOUT_MASKS = Path(__file__).parents[3] / "model_cards"  # where the package is used from a checkout


@dataclass(frozen=True)
class Opened:
    """A mask, the folder it was read from, and the text of its card, empty if it has none."""

    name: str
    mask: SignedMask
    folder: Path
    card: str


@dataclass(frozen=True)
class Sources:
    """What may be opened.

    Args:
        shipped: label -> folder, of the masks that the page offers.
        folders: whether a name may be a folder of this machine. On a server that would let strangers look into it.
        max_parameters: entries that a mask may have; None: as `SignedMask.from_pretrained`.
        max_bytes: of each file on the Hub, which is not downloaded if it is larger; None: any.
        token: of the Hub; None: that of `hf auth login`, False: none, so that only public masks are shown.
    """

    shipped: Mapping[str, Path] = field(default_factory=dict)
    folders: bool = True
    max_parameters: int | None = None
    max_bytes: int | None = None
    token: bool | None = None

    @property
    def kinds(self) -> str:
        """What may be given, in words."""
        return "an id on the Hub (owner/name), or a folder" if self.folders else "an id on the Hub (owner/name)"

    def open(self, name: str | None, revision: str | None = None) -> Opened:
        """The mask of that name: one of `shipped`, a folder if those are allowed, or one on the Hub.

        Raises: FileNotFoundError, hub.HubError, OSError, ValueError, as `SignedMask.from_pretrained`; their messages
            say what to do. ValueError if no name is given, or for a file of more than `max_bytes`.
        """
        name, revision = (name or "").strip(), (revision or "").strip() or None
        if not name:
            raise ValueError(f"no mask is chosen; choose one of the list, or give {self.kinds}")
        folder = self._folder(name)
        if folder is None:
            if revision and ".." in revision:
                raise ValueError(f"'{revision}' is no revision; give a branch, a tag or a commit, or leave it empty")
            folder = self._fetched(name, revision)
        mask = SignedMask(**pretrained.read(folder, max_parameters=self.max_parameters))
        return Opened(name, mask, folder, _card(folder))

    def _folder(self, name: str) -> Path | None:
        if name in self.shipped:
            return self.shipped[name]
        if self.folders:
            path = os.path.expanduser(name)  # unlike that of Path, it lets an unknown ~user stand
            return Path(path) if hub.is_folder(path) else None
        if name.count("/") != 1 or name.startswith((".", "/", "~")) or "\\" in name:
            raise ValueError(
                f"'{name}' is no id on the Hub; choose one of the list, or give owner/name. Folders are shown by the "
                "same page on your own machine: aws-lottery inspect FOLDER --web"
            )
        return None

    def _fetched(self, repo_id: str, revision: str | None) -> Path:
        """The folder of the files in the cache; the card with them, if there is one of a size that is shown."""
        files = (pretrained.CONFIG_FILE, pretrained.MASK_FILE)  # config.json first: its downloads count
        folder = hub.fetch(repo_id, files, revision=revision, token=self.token, max_bytes=self.max_bytes)
        try:
            card = (pretrained.CARD_FILE,)
            hub.fetch(repo_id, card, revision=folder.name, token=self.token, max_bytes=MAX_CARD_BYTES)
        except (hub.HubError, ValueError):
            pass
        return folder


def local(masks: Path = CHECKOUT_MASKS) -> Sources:
    """On one's own machine: also folders, and masks of any size that `SignedMask.from_pretrained` takes."""
    return Sources(shipped_in(masks))


def public(masks: Path) -> Sources:
    """On a server for everybody: the masks in `masks` and public ones on the Hub, of a bounded size."""
    return Sources(
        shipped_in(masks), folders=False, max_parameters=PUBLIC_PARAMETERS, max_bytes=PUBLIC_BYTES, token=False
    )


def shipped_in(folder: Path) -> dict[str, Path]:
    """Name -> folder of each mask in `folder`; empty if there is no such folder."""
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{pretrained.MASK_FILE}"))}


def _card(folder: Path) -> str:
    try:
        with open(folder / pretrained.CARD_FILE, "rb") as file:
            return file.read(MAX_CARD_BYTES).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
