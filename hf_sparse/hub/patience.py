"""Requests to the Hub, made again where that may help, with errors that say what to do."""

import time
from collections.abc import Callable
from json import JSONDecodeError
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError

Answer = TypeVar("Answer")

# Uploads wrap errors of requests in the second one; the third is a proxy that answers in place of the Hub.
_FAILURES = (HTTPError, RuntimeError, JSONDecodeError)
# Beside those that huggingface_hub makes itself for some requests.
WAITS = (2.0, 8.0)
# Who is told to wait longer would rather be told when.
_LONGEST_WAIT = 60
_AGAIN = "run the same command again, what has arrived is not sent twice"


def with_retries(request: Callable[[], Answer], repo: str) -> Answer:
    """Make a request that may be made more than once, again after a while where the Hub is not well.

    Raises `PermissionError`, `ConnectionError`, `RuntimeError` or `ValueError` for what the Hub refuses.
    """
    waits = iter(WAITS)
    while True:
        try:
            return request()
        except _FAILURES as raised:
            error, wait = _cause(raised), next(waits, None)
            told = _told_to_wait(error)
            if wait is None or not _passing(error) or told > _LONGEST_WAIT:
                raise _explained(error, repo, told) from raised
            time.sleep(max(wait, told))


def _cause(error: Exception) -> Exception:
    """Return the error of the request itself; that of an upload comes wrapped in another one."""
    cause = error.__cause__
    return cause if isinstance(cause, HTTPError) and not isinstance(error, HTTPError) else error


def _status(error: Exception) -> int | None:
    """Return the number of the answer, None if there was none."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _passing(error: Exception) -> bool:
    status = _status(error)
    return status is None or status in (408, 429) or status >= 500


def _told_to_wait(error: Exception) -> int:
    """Return for how many seconds the Hub wants no request, 0 if it does not say."""
    held = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return int(held) if held.isdigit() else 0


def _explained(error: Exception, repo: str, told: int) -> Exception:
    """Return the error to raise in place of one of huggingface_hub."""
    status = _status(error)
    said = (getattr(error, "server_message", None) or "").split("\n")[0]
    if status is None:
        what = "cannot be reached" if isinstance(error, HTTPError) else "does not answer as a Hub does"
        return ConnectionError(f"{constants.ENDPOINT} {what} ({error}); {_AGAIN}")
    if status == 401:
        return PermissionError("the Hub does not know the token; run `hf auth login`, or set HF_TOKEN")
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
        when = f"in {told} seconds" if told else "in some minutes"
        return ConnectionError(f"the Hub takes no more requests for now; run the same command again {when}")
    if status >= 500:
        return ConnectionError(f"the Hub is not well ({status} {said}); {_AGAIN}")
    if status == 404:
        return ValueError(f"there is no {repo} on the Hub that the token may see; check name and token")
    return ValueError(f"the Hub refuses {repo}: {said or error}")
