"""Models by name: in the package, in a local folder, or on the Hub."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    scan_cache_dir,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CacheNotFound,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
)
from torch import nn

from effssl.atomic import is_folder
from effssl.hub._errors import hub_errors, retried
from effssl.hub._folder import is_model_folder, load_folder
from effssl.hub._model_config import WEIGHT_FILES, read_config
from effssl.local import HUB_MODEL, PACKAGED, check_model_name
from effssl.model import SSLModel
from effssl.version import __version__

logger = logging.getLogger(__name__)

HUB_TAG = "effssl"


def from_pretrained(
    id_or_folder: str | os.PathLike,
    *,
    num_classes: int | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
) -> SSLModel | nn.Module:
    """Load a model from the package, a folder or the Hub.

    Nothing is unpickled. The weights must fit config.json tensor by tensor, and have the sha256
    recorded there.

    Args:
        id_or_folder: Model folder, run folder, repository ``owner/name``, or name of a model in the
            package (see `list_pretrained`); a folder of that name takes precedence. The prefixes
            ``local-dir:`` and ``hf-hub:`` are those of timm, the latter with an optional
            ``@revision``. timm's own repositories load as backbones without projector.
        num_classes: Width of a fresh classifier; None for features.
        revision: Branch, tag or commit of the repository; ``main`` if None.
        token: Token for private and gated repositories; that of ``hf auth login`` if None.
        cache_dir: Folder for downloads; ``hub`` under HF_HOME if None.
        local_files_only: Whether to use only files that were downloaded before.

    Returns:
        Without num_classes an `SSLModel` in eval mode with gradients off: ``model(x)`` returns
        features, (N, F). With num_classes timm's backbone with a randomly initialized classifier,
        in train mode with gradients on: ``model(x)`` returns logits, (N, num_classes).

    Raises:
        FileNotFoundError: If there is no such folder, repository, revision or file; or if it is not
            in the cache and the Hub does not answer.
        PermissionError: If the token does not give access.
        ConnectionError: If the connection breaks, or the Hub cannot answer now.
        ValueError: If a file is truncated, not of this format, or does not fit the others.
    """
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, or None for features; got {num_classes}")
    options = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    return load_folder(find_model(id_or_folder, revision, **options), num_classes=num_classes)


def find_model(
    id_or_folder: str | os.PathLike,
    revision: str | None = None,
    *,
    token: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    card: bool = False,
) -> Path:
    """Return the model folder of a name, downloaded if needed; see `from_pretrained`.

    With ``card`` the README.md of a repository is downloaded too, if there is one.
    """
    name = os.fspath(id_or_folder)
    check_model_name(name)
    kind, _, rest = name.partition(":")
    local = Path(rest if kind == "local-dir" else name)
    if kind == "hf-hub":
        name, _, at = rest.partition("@")
        revision = revision or at or None
        if not HUB_MODEL.fullmatch(name):
            raise FileNotFoundError(f"{name!r} is no repository: one on the Hub is owner/name")
    elif is_folder(local):
        return local / "model" if (local / "model" / "config.json").is_file() else local
    elif name in PACKAGED:
        if revision is not None:
            raise ValueError(f"{name} comes with the package, which has no revision {revision!r}")
        return PACKAGED[name]
    with hub_errors(name, revision):
        if try_to_load_from_cache(name, "config.json", cache_dir, revision) is None:
            logger.info("%s is no folder here: looking for the repository on the Hub", name)
    more = ["training.json", *(["README.md"] if card else [])]
    return retried(lambda: _download(name, revision, token, cache_dir, local_files_only, more))


def public_name(name: str) -> str | None:
    """Return repository or name in the package that `find_model` takes a name for.

    Returns:
        None for a folder.
    """
    kind, _, rest = name.partition(":")
    if kind == "hf-hub":
        return rest.partition("@")[0]
    return None if kind == "local-dir" or Path(name).is_dir() else name


def _download(
    repo_id: str,
    revision: str | None,
    token: str | None,
    cache_dir: str | os.PathLike | None,
    local_files_only: bool,
    more: Sequence[str],
) -> Path:
    """Download the files of a model, and more if the repository has them."""

    def fetch(file: str, revision: str | None) -> Path:
        try:
            path = hf_hub_download(
                repo_id,
                file,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                library_name="effssl",
                library_version=__version__,
            )
        except RuntimeError as error:  # from the transport of large files
            raise ConnectionError(f"the download of {file} failed: {error}") from error
        return Path(path)

    with hub_errors(repo_id, revision, local_files_only=local_files_only):
        folder = fetch("config.json", revision).parent
        commit = folder.name  # take all files of one commit
        files = list(read_config(folder).files) or [WEIGHT_FILES["backbone"]]
        try:
            for file in files:
                fetch(file, commit)
        except RemoteEntryNotFoundError as error:
            raise ValueError(
                f"{repo_id} has no {' and '.join(files)}, and pickled weights "
                "are not read: its owner can convert them to safetensors"
            ) from error
        for file in more:
            try:
                fetch(file, commit)
            except RemoteEntryNotFoundError:
                pass  # timm's repositories have no training.json
            except LocalEntryNotFoundError:
                if not (local_files_only or constants.is_offline_mode()):
                    raise
    return folder


def list_pretrained(
    pattern: str = "*", *, author: str | None = None, token: str | None = None
) -> list[str]:
    """List the models in the package and those of effssl on the Hub.

    Without a connection to the Hub, models in the cache are listed instead.

    Args:
        pattern: Pattern of the id, or of the name after its owner, such as ``*-bt-*``.
        author: User or organization that owns them; all if None.
        token: Token to see private ones; that of ``hf auth login`` if None.

    Raises:
        PermissionError: If the Hub does not know the token.
    """
    try:
        if constants.is_offline_mode():
            ids = _cached()
        else:
            with hub_errors(f"models tagged {HUB_TAG}"):
                found = HfApi(token=token).list_models(filter=HUB_TAG, author=author)
                ids = [model.id for model in found]
    except ConnectionError as error:
        logger.warning("%s; these are the models in the cache", error)
        ids = _cached()
    return sorted(
        name
        for name in [*PACKAGED, *ids]
        if author is None or name.startswith(f"{author}/")
        if any(fnmatch.fnmatchcase(n, pattern) for n in (name, name.rpartition("/")[2]))
    )


def _cached() -> list[str]:
    """Return the ids of complete models of effssl in the default cache."""
    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    return [
        repo.repo_id
        for repo in repos
        if repo.repo_type == "model"
        and any(is_model_folder(r.snapshot_path) for r in repo.revisions)
    ]
