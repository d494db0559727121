"""Errors of the Hub as built-in ones, of one line that says what to do."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

logger = logging.getLogger(__name__)

_WAITS = (2, 8)  # seconds between tries; huggingface_hub also retries within one
_CAUGHT = (
    HfHubHTTPError,
    EntryNotFoundError,
    OfflineModeIsEnabled,
    ValueError,  # HFValidationError and json.JSONDecodeError are ValueErrors
    httpx.HTTPError,
)
_LOG_IN = "log in with `hf auth login`, or give a token"


@contextmanager
def hub_errors(
    repo_id: str, revision: str | None = None, *, local_files_only: bool = False
) -> Iterator[None]:
    """Raise errors of huggingface_hub as built-in ones.

    Args:
        repo_id: Repository that is asked for.
        revision: Branch, tag or commit.
        local_files_only: Whether only the cache is asked.

    Raises:
        FileNotFoundError: If there is no such repository, revision or file; or if it is not in the
            cache and the Hub gives no answer.
        PermissionError: If the token does not allow it.
        ConnectionError: If the Hub cannot be reached, or cannot answer now.
        ValueError: If the id is malformed, or the Hub refuses what was sent.
    """
    try:
        yield
    except _CAUGHT as error:
        raise _translated(error, repo_id, revision, local_files_only) from error


def _translated(
    error: Exception, repo_id: str, revision: str | None, local_files_only: bool
) -> Exception:
    hub = constants.ENDPOINT
    if isinstance(error, HFValidationError):
        return ValueError(f"{repo_id!r} cannot be the id of a repository: {_line(error)}")
    if isinstance(error, LocalEntryNotFoundError):
        return _not_in_cache(error, repo_id, revision, local_files_only)
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f"HF_HUB_OFFLINE is set: unset it to reach {hub}")
    if isinstance(error, EntryNotFoundError):
        return FileNotFoundError(f"{repo_id} is no model of effssl or timm: {_line(error)}")
    if isinstance(error, HfHubHTTPError):
        return _refused(error, repo_id, revision)
    if isinstance(error, json.JSONDecodeError):  # such as the page of a gateway
        return ConnectionError(f"{hub} does not answer as a Hub: {_line(error)}")
    if isinstance(error, httpx.HTTPError):
        return ConnectionError(
            f"the connection to {hub} failed: {_line(error) or type(error).__name__}; try again"
        )
    return ValueError(_line(error))


def _not_in_cache(
    error: LocalEntryNotFoundError, repo_id: str, revision: str | None, local_files_only: bool
) -> Exception:
    if _status(error.__cause__) == 429 or _status(error.__cause__) >= 500:
        return _try_later(repo_id, error.__cause__)
    why = f"{constants.ENDPOINT} gave no answer"
    if local_files_only or constants.is_offline_mode():
        why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "only that was asked"
    return FileNotFoundError(
        f"{repo_id}{f'@{revision}' if revision else ''} is not in the cache and {why}: load it "
        "once with a connection, or give a folder that exists"
    )


def _refused(error: HfHubHTTPError, repo_id: str, revision: str | None) -> Exception:
    hub, status = constants.ENDPOINT, _status(error)
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{repo_id} is gated: accept its conditions at {hub}/{repo_id}, then {_LOG_IN}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"no repository {repo_id!r} at {hub}, or it is private and you have no access: check "
            f"the name, or {_LOG_IN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(
            f"{repo_id} has no revision {revision!r}: give a branch, tag or commit that "
            f"{hub}/{repo_id}/commits lists"
        )
    if status == 401:
        return PermissionError(f"{hub} wants a token that it knows: {_LOG_IN} that is not expired")
    if status == 403:
        return PermissionError(
            f"the token does not allow this in {repo_id}: give one with write access, of a "
            "member of its owner"
        )
    if status == 412:
        return ConnectionError(f"{repo_id} was changed meanwhile: do it again")
    if status == 429 or status >= 500:
        return _try_later(repo_id, error)
    return ValueError(f"{hub} refuses it: {_line(error.server_message or error)}")


T = TypeVar("T")


def retried(ask: Callable[[], T]) -> T:
    """Call a function, up to three times while the Hub cannot answer, and return its result."""
    for wait in _WAITS:
        try:
            return ask()
        except ConnectionError as error:
            if constants.is_offline_mode():
                raise
            logger.warning("%s; trying again", error)
            time.sleep(wait)
    return ask()


def _line(error: object) -> str:
    return " ".join(str(error).split())


def _status(error: BaseException | None) -> int:
    response = getattr(error, "response", None)
    return 0 if response is None else response.status_code


def _try_later(repo_id: str, error: BaseException) -> ConnectionError:
    wait = error.response.headers.get("Retry-After")
    when = f"in {wait} seconds" if wait else "later"
    return ConnectionError(
        f"{constants.ENDPOINT} answers {_status(error)} about {repo_id}: try again {when}"
    )
