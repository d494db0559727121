"""Publication of a model folder: checked first, then sent as one commit."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import validate_repo_id

from effssl.atomic import write_json
from effssl.hub._card import compose_card, write_card
from effssl.hub._errors import hub_errors, retried
from effssl.hub._figures import FIGURES
from effssl.hub._folder import CARD, PROBE, TRAINING, load_folder, save_pretrained
from effssl.hub._model_config import WEIGHT_FILES, read_config, read_json
from effssl.hub._weights import describe_file
from effssl.hub.pull import find_model
from effssl.model import SSLModel
from effssl.version import __version__

logger = logging.getLogger(__name__)

_LOCAL_PATH = re.compile(r"""(^|[\s'"=])(/[\w.]|~/|file:|[A-Za-z]:\\|\\\\)""")
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
) -> str:
    """Publish a model with a generated card, in one commit.

    Everything is checked before anything is sent. A push that fails leaves the repository
    unchanged, or new and empty, and may leave a new branch; pushing the same again makes no commit.
    Text in the card outside of its generated block is kept, whether written here or on the Hub.

    Args:
        folder_or_model: Model folder, run folder, or model.
        repo_id: ``owner/name``; created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch to push to; created from ``main`` if it does not exist.
        commit_message: Commit message; names the model if None.
        token: Token with write access; that of ``hf auth login`` if None.
        create_pr: Whether to open a pull request instead of changing the branch.
        license: License of the weights, by its identifier on the Hub; that of the folder if None.

    Returns:
        Address of the commit or pull request, or of the repository if it held all of it already.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the folder is incomplete, holds paths of this machine, or the Hub refuses it.
        PermissionError: If the token does not allow it.
        ConnectionError: If the Hub cannot be reached, or cannot answer now.
    """
    if isinstance(folder_or_model, SSLModel):
        with tempfile.TemporaryDirectory() as folder:
            save_pretrained(folder_or_model, Path(folder) / "model")
            return push_to_hub(
                Path(folder) / "model",
                repo_id,
                private=private,
                revision=revision,
                commit_message=commit_message,
                token=token,
                create_pr=create_pr,
                license=license,
            )
    folder = find_model(f"local-dir:{os.fspath(folder_or_model)}")
    prepare(folder, repo_id, license)  # before any request
    message = commit_message or f"Upload {_title(folder)} with effssl"
    api = HfApi(token=token, library_name="effssl", library_version=__version__)

    def send() -> str:
        return _send(api, folder, repo_id, private, revision, message, create_pr)

    # if only the answer was lost, a retry finds nothing to do; a pull request would be a second one
    return send() if create_pr else retried(send)


def prepare(folder: Path, repo_id: str, license: str | None = None) -> list[Path]:
    """Check a model folder, write its card, and return the files to send.

    Args:
        folder: Model folder.
        repo_id: Repository to publish to, for the card.
        license: As for `push_to_hub`.

    Raises:
        ValueError: As for `push_to_hub`.
    """
    with hub_errors(repo_id):
        validate_repo_id(repo_id)
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} has no owner: give owner/name")
    if license is not None and not re.fullmatch(r"[a-z0-9.-]+", license):
        raise ValueError(f"license {license!r} must be an identifier such as apache-2.0 or mit")
    found = read_config(folder)
    if not found.files:
        raise ValueError(f"{folder} is timm's own: push it with timm.models.push_to_hf_hub")
    load_folder(folder)
    if license is not None:
        config = read_json(folder / "config.json")
        config["pretrained_cfg"]["license"] = license
        write_json(folder / "config.json", config)
    elif "license" not in found.pretrained_cfg:
        logger.warning("no license: nobody may use the weights; give one, such as apache-2.0")
    for file in ("config.json", TRAINING):
        if (folder / file).is_file():
            _check_publishable(read_json(folder / file), folder / file)
    write_card(folder, compose_card(folder, repo_id))
    return list(_files(folder).values())


def _check_publishable(value: object, path: Path, key: str = "") -> None:
    """Raise ValueError for paths of this machine and for numbers that are not finite."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_publishable(item, path, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            _check_publishable(item, path, key)
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError(f"{path}: {key} is {value}, and only finite numbers are published")
    elif isinstance(value, str) and _LOCAL_PATH.search(value):
        raise ValueError(f"{path}: {key} holds a path of this machine, {value!r}: take it out")


def _send(
    api: HfApi,
    folder: Path,
    repo_id: str,
    private: bool,
    revision: str | None,
    message: str,
    create_pr: bool,
) -> str:
    """Send what a prepared folder holds, and return the address of the commit."""
    with hub_errors(repo_id, revision):
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        before = api.model_info(repo_id, revision=revision, files_metadata=True)
        there = {file.rfilename: file for file in before.siblings if file.rfilename in _FILES}
        theirs = ""
        if CARD in there:
            path = Path(api.hf_hub_download(repo_id, CARD, revision=before.sha))
            theirs = path.read_text(encoding="utf-8")
        card = compose_card(folder, repo_id, theirs)
        files = _files(folder) | {CARD: card.encode()}
        if there.keys() == files.keys() and all(_is_same(there[n], files[n]) for n in files):
            logger.info("%s holds all of it", repo_id)
            write_card(folder, card)
            return str(address)
        try:
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(name, content) for name, content in files.items()]
                + [CommitOperationDelete(name) for name in there if name not in files],
                commit_message=message,
                revision=revision,
                parent_commit=before.sha,
                create_pr=create_pr,
            )
        except RuntimeError as error:  # wraps the error of one of the large files
            raise error.__cause__ or ConnectionError(f"the upload failed: {error}") from None
    write_card(folder, card)  # after the commit, since a retry compares it with the one sent
    return commit.pr_url or commit.commit_url


def _files(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in _FILES if (folder / name).is_file()}


def _title(folder: Path) -> str:
    config = read_config(folder)
    return str(config.name or config.architecture)


def _is_same(there: RepoSibling, file: Path | bytes) -> bool:
    if there.lfs is not None:
        return isinstance(file, Path) and there.lfs.sha256 == describe_file(file)["sha256"]
    content = file if isinstance(file, bytes) else file.read_bytes()
    # git's hash of the content
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
