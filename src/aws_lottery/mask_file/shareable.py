"""`Shareable`: what a signed mask has from here, keeping it in folders and sharing it on the Hub."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, cast

from huggingface_hub import HfApi, ModelCard, ModelHubMixin

from ..atomic import make_folder
from . import hub, model_card, pretrained

if TYPE_CHECKING:
    from ..mask import SignedMask


class Shareable(ModelHubMixin):
    """The methods of SignedMask that write and read its files; it is the only class that derives from this one."""

    source: str | None  # the folder or the commit on the Hub that it was read from

    def generate_model_card(self, *, repo_id: str | None = None, existing: str | None = None) -> ModelCard:
        """The card, README.md: from `results` and `provenance`; of the `existing` one, what was added by hand stays."""
        return model_card.render(cast("SignedMask", self), repo_id=repo_id, existing=existing)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: object = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: Mapping[str, Any] | None = None,
        **push_options: Any,
    ) -> str | None:
        """Write config.json, signed_mask.safetensors and the card, README.md, to a folder, which is made if need be.

        A mask that is there is replaced as a whole: who reads it meanwhile, or after this was killed at any moment,
        gets the old mask or the new one. Two processes must not write to one folder at once.

        Args:
            save_directory: made if need be.
            config: not used; ModelHubMixin has it.
            repo_id: for a push; None: the folder's name.
            push_to_hub: push it as well.
            model_card_kwargs: of `generate_model_card`; `existing` is the card in the folder, if there is one.
            push_options: of `push_to_hub`, the method.

        Returns:
            URL of the commit, if it was pushed.

        Raises:
            ValueError: Before anything is written, for what can't be kept or a card that can't be read.
            OSError: If the folder can't be written.

        Example:
            >>> mask.save_pretrained("my-mask")  # doctest: +SKIP
        """
        folder = Path(save_directory)
        make_folder(folder)
        readme = folder / pretrained.CARD_FILE
        existing = {"existing": readme.read_text(encoding="utf-8")} if readme.exists() else {}
        card = self.generate_model_card(**{**existing, **(model_card_kwargs or {})})
        pretrained.write(folder, cast("SignedMask", self), str(card))
        return self.push_to_hub(repo_id or folder.name, **push_options) if push_to_hub else None

    @classmethod
    def from_pretrained(
        cls,
        repo_id_or_folder: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        max_parameters: int | None = None,
    ) -> Self:
        """The mask in a folder that `save_pretrained` wrote, or in a repository on the Hub.

        Args:
            repo_id_or_folder: such as "org/resnet50-aws-0.14", or a path.
            revision: commit, tag or branch on the Hub; a commit is the only one that never changes.
            subfolder: where in the folder or in the repository its files are; None: at its root.
            token: for private and gated repositories; None: the one of `hf auth login`.
            cache_dir: where downloads are kept.
            local_files_only: take it from there and ask nothing of the Hub.
            force_download: download it even if it is there.
            max_parameters: refuse a mask with more entries than that; a stranger's file then takes no more memory than
                a mask of the network would. None: 64 Mi entries or, if that is more, 64 for each byte of the file.

        Returns:
            The mask, in CPU memory; its `source` says where it came from.

        Raises:
            FileNotFoundError: For a path without a folder, or a folder without a mask.
            HubError: If the Hub does not give it.
            ValueError: For files that are not whole.

        Example:
            >>> SignedMask.from_pretrained("org/resnet50-aws-0.14", revision="v1")  # doctest: +SKIP
        """
        if hub.is_folder(repo_id_or_folder):
            folder = Path(repo_id_or_folder) / (subfolder or "")
            mask = cls(**pretrained.read(folder, max_parameters=max_parameters))
            mask.source = str(folder)
            return mask
        path = hub.fetch(
            str(repo_id_or_folder),
            (pretrained.CONFIG_FILE, pretrained.MASK_FILE),  # config.json first: its downloads count
            revision=revision,
            subfolder=subfolder,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        try:
            mask = cls(**pretrained.read(path, max_parameters=max_parameters))
        except ValueError as error:
            hint = "if it broke on the way, force_download=True fetches it anew"
            raise ValueError(f"{error}. It came from '{repo_id_or_folder}' on the Hub; {hint}") from error
        commit = path.parents[len(Path(subfolder).parts) - 1].name if subfolder else path.name
        mask.source = f"{repo_id_or_folder}@{commit}" + (f"/{subfolder}" if subfolder else "")
        return mask

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        commit_message: str = "Upload signed mask",
        token: str | bool | None = None,
        config: object = None,
        model_card_kwargs: object = None,
    ) -> str:
        """Commit config.json, signed_mask.safetensors and the card to the Hub; what was added to the card stays.

        Args:
            repo_id: such as "org/resnet50-aws-0.14"; made if need be.
            private: whether a repository that is made is private; None: as its owner has it.
            branch: made from main if it is missing; None: main.
            create_pr: open a pull request instead.
            commit_message: its first line.
            token: with write access; None: the one of `hf auth login`.
            config: not used; ModelHubMixin has it.
            model_card_kwargs: likewise.

        Returns:
            URL of the commit.

        Raises:
            HubError: If the Hub does not take it.
            ValueError: Before anything is committed, as `save_pretrained`.

        Example:
            >>> mask.push_to_hub("org/resnet50-aws-0.14")  # doctest: +SKIP
        """
        repo_id, existing = hub.prepare(repo_id, private=private, branch=branch, create_pr=create_pr, token=token)
        with TemporaryDirectory() as files:
            self.save_pretrained(files, model_card_kwargs={"repo_id": repo_id, "existing": existing})
            with hub.explained(repo_id, branch):
                return HfApi(token=token).upload_folder(
                    repo_id=repo_id,
                    folder_path=files,
                    revision=branch,
                    create_pr=create_pr,
                    commit_message=commit_message,
                )
