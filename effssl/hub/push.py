"""Publication of a model folder: checked first, then sent as one commit."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import validate_repo_id

from effssl.atomic import json_text, replacing, write_text
from effssl.foreign import read_bytes, read_json, read_text
from effssl.hub._base import license_warning
from effssl.hub._card import compose_card, read_license, write_card
from effssl.hub._errors import hub_errors, retried
from effssl.hub._figures import FIGURES
from effssl.hub._folder import (
    CARD,
    MOST_CARD,
    PROBE,
    TRAINING,
    load_folder,
    save_pretrained,
)
from effssl.hub._license import License, check_license
from effssl.hub._model_config import WEIGHT_FILES, read_config, set_license
from effssl.hub._probe import check_probe
from effssl.hub._publishable import check_publishable
from effssl.hub._snapshot import snapshot
from effssl.hub._weights import describe_file
from effssl.hub.pull import find_model
from effssl.model import SSLModel
from effssl.progress import Stage
from effssl.version import __version__

logger = logging.getLogger(__name__)

_FILES = ("config.json", *WEIGHT_FILES.values(), TRAINING, PROBE, CARD, *FIGURES)


def push_to_hub(
    folder_or_model: str | os.PathLike | SSLModel,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
) -> str:
    """Publish a model with a generated card, in one commit.

    The model is copied to a temporary folder, checked there, and sent from there. A push that fails
    leaves the repository unchanged, or new and empty, and may leave a new branch; pushing the same
    again makes no commit. Text in the card outside of its generated block is kept, and so is
    metadata that a person wrote or changed, whether here or on the Hub.

    Args:
        folder_or_model: Model folder, run folder, or model.
        repo_id: ``owner/name``; created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch to push to; created from ``main`` if it does not exist.
        commit_message: Commit message; names the model if None.
        token: Token with write access; that of ``hf auth login`` if None.
        create_pr: Whether to open a pull request instead of changing the branch.
        license: License of the weights, by its identifier on the Hub; that of the card or of
            config.json if None.
        license_name: Name of the license if ``license`` is ``other``.
        license_link: Address of its text likewise, or LICENSE for a file of the repository.

    Returns:
        Address of the commit or pull request, or of the repository if it held all of it already.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the folder is incomplete, holds paths of this machine or links to files
            outside of it, the Hub does not know the license, or it refuses the push.
        PermissionError: If the token does not allow it.
        ConnectionError: If the Hub cannot be reached, or cannot answer now.
    """
    granted = check_license(license, license_name, license_link)
    api = HfApi(token=token, library_name="effssl", library_version=__version__)
    with ExitStack() as stack:
        if isinstance(folder_or_model, SSLModel):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
            save_pretrained(folder_or_model, folder)
        else:
            folder = find_model(f"local-dir:{os.fspath(folder_or_model)}")
        copy = stack.enter_context(prepared(folder, repo_id, granted))  # before any request
        message = commit_message or f"Upload {_title(copy)} with effssl"

        def send() -> str:
            address, card = _send(
                api, copy, repo_id, private, revision, message, create_pr, granted
            )
            # after the commit, since a retry compares it with the one sent
            earlier = (copy / CARD).read_bytes()
            write_text(copy / CARD, card)
            _return_card(copy, folder, earlier)
            return address

        # if only the answer was lost, a retry finds nothing to do; a pull request would be a second
        return send() if create_pr else retried(send)


@contextmanager
def prepared(folder: Path, repo_id: str, license: License | None = None) -> Iterator[Path]:
    """Copy a model out of its folder, check it and write its card, there and in the folder.

    Args:
        folder: Model folder.
        repo_id: Repository to publish to, for the card.
        license: License of the weights; that of the card or of config.json if None.

    Yields:
        Temporary folder with the files to send.

    Raises:
        ValueError: As for `push_to_hub`.
    """
    with hub_errors(repo_id):
        validate_repo_id(repo_id)
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} has no owner: give owner/name")

    earlier: bytes | None = None

    def check(copy: Path) -> None:
        nonlocal earlier
        if not read_config(copy).files:
            raise ValueError(f"{folder} is timm's own: push it with timm.models.push_to_hf_hub")
        check_probe(copy, load_folder(copy))
        check_publishable(copy, folder)
        earlier = _read_card(copy)
        card = compose_card(copy, repo_id, license=license)
        check_publishable(copy, folder, read_license(card))  # which is sent in config.json
        write_card(copy, card)

    with snapshot(folder, check) as copy:
        granted = read_license(read_text(copy / CARD, MOST_CARD))
        warning = license_warning(read_config(copy).base, granted)
        if warning is not None:
            logger.warning("%s", warning)
        elif granted is None:
            logger.warning("no license: nobody may use the weights; give one, such as apache-2.0")
        _return_card(copy, folder, earlier)
        yield copy


def prepare(folder: Path, repo_id: str, license: str | None = None) -> list[Path]:
    """Check a model folder, write its card, and return the files of it that would be sent.

    Args:
        folder: Model folder.
        repo_id: Repository to publish to, for the card.
        license: License of the weights, by its identifier; as for `push_to_hub`.

    Raises:
        ValueError: As for `push_to_hub`.
    """
    with prepared(folder, repo_id, check_license(license)) as copy:
        return [folder / name for name in files_to_send(copy)]


def files_to_send(copy: Path, card: str | None = None) -> dict[str, Path | bytes]:
    """Return path or content of each file to send, by its name.

    Args:
        copy: Folder from `prepared`.
        card: The card; that in the folder if None.
    """
    files: dict[str, Path | bytes] = {n: copy / n for n in _FILES if (copy / n).is_file()}
    if card is None:
        card = read_text(copy / CARD, MOST_CARD)
    files[CARD] = card.encode()
    license = read_license(card)
    if license is not None:
        config = read_json(copy / "config.json")
        set_license(config, license)
        files["config.json"] = json_text(config).encode()
    return files


def _read_card(folder: Path) -> bytes | None:
    path = folder / CARD
    return read_bytes(path, MOST_CARD) if path.is_file() else None


def _return_card(copy: Path, folder: Path, earlier: bytes | None) -> None:
    """Write card and figures into the folder of the model, unless its card was edited meanwhile."""
    try:
        if _read_card(folder) != earlier:
            logger.warning("%s was changed during the push and is left as it is", folder / CARD)
            return
        for name in (CARD, *FIGURES):
            if (copy / name).is_file():
                with replacing(folder / name, "wb") as file:
                    file.write((copy / name).read_bytes())
            else:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        logger.warning("the card was not written to %s: %s", folder, error)


def _send(
    api: HfApi,
    folder: Path,
    repo_id: str,
    private: bool,
    revision: str | None,
    message: str,
    create_pr: bool,
    license: License | None,
) -> tuple[str, str]:
    """Send what a prepared folder holds, and return the address of the commit and the card."""
    with hub_errors(repo_id, revision):
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        before = api.model_info(repo_id, revision=revision, files_metadata=True)
        there = {file.rfilename: file for file in before.siblings if file.rfilename in _FILES}
        theirs = ""
        if CARD in there:
            path = Path(api.hf_hub_download(repo_id, CARD, revision=before.sha))
            theirs = read_bytes(path.resolve(), MOST_CARD).decode()
        card = compose_card(folder, repo_id, theirs, license)
        files = files_to_send(folder, card)
        if there.keys() == files.keys() and all(_is_same(there[n], files[n]) for n in files):
            logger.info("%s holds all of it", repo_id)
            return str(address), card
        changes = [CommitOperationAdd(name, content) for name, content in files.items()]
        megabytes = sum(change.upload_info.size for change in changes) / 1e6
        # on a terminal huggingface_hub draws bars of its own
        upload = Stage(
            f"upload {len(files)} files of {megabytes:,.1f} MB to {repo_id}",
            shown=not sys.stderr.isatty(),
        )
        try:
            with upload:
                commit = api.create_commit(
                    repo_id,
                    changes + [CommitOperationDelete(name) for name in there if name not in files],
                    commit_message=message,
                    revision=revision,
                    parent_commit=before.sha,
                    create_pr=create_pr,
                )
        except RuntimeError as error:  # wraps the error of one of the large files
            raise error.__cause__ or ConnectionError(f"the upload failed: {error}") from None
    return commit.pr_url or commit.commit_url, card


def _title(folder: Path) -> str:
    config = read_config(folder)
    return str(config.name or config.architecture)


def _is_same(there: RepoSibling, file: Path | bytes) -> bool:
    if there.lfs is not None:
        return isinstance(file, Path) and there.lfs.sha256 == describe_file(file)["sha256"]
    content = file if isinstance(file, bytes) else file.read_bytes()
    # git's hash of the content
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
