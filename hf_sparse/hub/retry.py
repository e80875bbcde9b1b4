"""Retry requests to the Hub, and raise errors that say what to do."""

import time
from collections.abc import Callable
from json import JSONDecodeError
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError

Answer = TypeVar("Answer")

# RuntimeError wraps the errors of an upload; JSONDecodeError comes from a proxy that answers for the Hub.
_FAILURES = (HTTPError, RuntimeError, JSONDecodeError)
# Seconds before each retry; huggingface_hub itself retries some requests before that.
WAITS = (2.0, 8.0)
# Beyond this many seconds, raise and report the delay instead of sleeping.
_LONGEST_WAIT = 60
_AGAIN = "run the same command again; files that have arrived are not sent twice"


def with_retries(request: Callable[[], Answer], repo: str) -> Answer:
    """Return the answer to a request, which is repeated after a while if the Hub fails.

    Raises `PermissionError`, `ConnectionError`, `RuntimeError` or `ValueError` if the Hub refuses it.
    """
    waits = iter(WAITS)
    while True:
        try:
            return request()
        except _FAILURES as raised:
            error, wait = _cause(raised), next(waits, None)
            asked = _retry_after(error)
            if wait is None or not _is_temporary(error) or asked > _LONGEST_WAIT:
                raise _explained(error, repo, asked) from raised
            time.sleep(max(wait, asked))


def _cause(error: Exception) -> Exception:
    """Return the error of the request itself, which an upload wraps in another error."""
    cause = error.__cause__
    return cause if isinstance(cause, HTTPError) and not isinstance(error, HTTPError) else error


def _status(error: Exception) -> int | None:
    """Return the HTTP status of the answer, None if there was no answer."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_temporary(error: Exception) -> bool:
    status = _status(error)
    return status is None or status in (408, 429) or status >= 500


def _retry_after(error: Exception) -> int:
    """Return the seconds in the header Retry-After, 0 without one."""
    held = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return int(held) if held.isdigit() else 0


def _explained(error: Exception, repo: str, asked: int) -> Exception:
    """Return the error to raise in place of one of huggingface_hub."""
    status = _status(error)
    said = (getattr(error, "server_message", None) or "").split("\n")[0]
    if status is None:
        what = "cannot be reached" if isinstance(error, HTTPError) else "does not answer as a Hub does"
        return ConnectionError(f"{constants.ENDPOINT} {what} ({error}); {_AGAIN}")
    if status == 401:
        return PermissionError("the Hub does not accept the token; run `hf auth login`, or set HF_TOKEN")
    if status == 403:
        return PermissionError(
            f"the token may not write to {repo}; take one that may ({constants.ENDPOINT}/settings/tokens) or "
            "push to a name of your own"
        )
    if status in (409, 412):
        return RuntimeError(
            f"{repo} was changed by somebody else in the meantime, and not by this push; run it again"
        )
    if status == 429:
        when = f"in {asked} seconds" if asked else "in some minutes"
        return ConnectionError(f"the Hub takes no more requests for now; run the same command again {when}")
    if status >= 500:
        return ConnectionError(f"the Hub fails ({status} {said}); {_AGAIN}")
    if status == 404:
        return ValueError(f"{repo} is not on the Hub, or the token may not see it; check name and token")
    return ValueError(f"the Hub refuses {repo}: {said or error}")
