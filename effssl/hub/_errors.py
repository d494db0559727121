"""What goes wrong between here and the Hub, as one line that names the way out."""

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

_WAITS = (2, 8)  # seconds until the next try, beside those of huggingface_hub within one
_LOG_IN = "log in with `hf auth login`, or give a token"


@contextmanager
def hub_errors(
    repo_id: str, revision: str | None = None, *, local_files_only: bool = False
) -> Iterator[None]:
    """Raise errors of huggingface_hub as built-in ones.

    Args:
        repo_id: The repository that is asked for.
        revision: Of it.
        local_files_only: Whether only the cache was asked.

    Raises:
        FileNotFoundError: If there is no such repository, revision or file; or if it is not in the
            cache and the Hub gives no answer.
        PermissionError: If the token does not allow it.
        ConnectionError: If the Hub cannot be reached, or cannot answer now.
        ValueError: If the id is malformed, or the Hub refuses what was sent.
    """
    hub = constants.ENDPOINT
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} cannot be the id of a repository: {_line(error)}") from error
    except GatedRepoError as error:
        raise PermissionError(
            f"{repo_id} is gated: accept its conditions at {hub}/{repo_id}, then {_LOG_IN}"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no repository {repo_id!r} at {hub}, or it is private and you have no access: check "
            f"the name, or {_LOG_IN}"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} has no revision {revision!r}: give a branch, tag or commit that "
            f"{hub}/{repo_id}/commits lists"
        ) from error
    except LocalEntryNotFoundError as error:
        if _status(error.__cause__) == 429 or _status(error.__cause__) >= 500:
            raise _try_later(repo_id, error.__cause__) from error
        why = f"{hub} gave no answer"
        if local_files_only or constants.is_offline_mode():
            why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "only that was asked"
        raise FileNotFoundError(
            f"{repo_id}{f'@{revision}' if revision else ''} is not in the cache and {why}: load it "
            "once with a connection, or give a folder that exists"
        ) from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} is no model of effssl or timm: {_line(error)}"
        ) from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError(f"HF_HUB_OFFLINE is set: unset it to reach {hub}") from error
    except HfHubHTTPError as error:
        status = _status(error)
        if status == 401:
            raise PermissionError(
                f"{hub} wants a token that it knows: {_LOG_IN} that is not expired"
            ) from error
        if status == 403:
            raise PermissionError(
                f"the token does not allow this in {repo_id}: give one with write access, of a "
                "member of its owner"
            ) from error
        if status == 412:
            raise ConnectionError(f"{repo_id} was changed meanwhile: do it again") from error
        if status == 429 or status >= 500:
            raise _try_later(repo_id, error) from error
        raise ValueError(f"{hub} refuses it: {_line(error.server_message or error)}") from error
    except json.JSONDecodeError as error:  # such as the page of a gateway
        raise ConnectionError(f"{hub} does not answer as a Hub: {_line(error)}") from error
    except ValueError as error:
        raise ValueError(_line(error)) from error
    except httpx.HTTPError as error:
        raise ConnectionError(
            f"the connection to {hub} failed: {_line(error) or type(error).__name__}; try again"
        ) from error


T = TypeVar("T")


def retried(ask: Callable[[], T]) -> T:
    """What a function returns, that asks again twice where the Hub could not answer just now."""
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
