"""The functions that answer requests to the Hub server, by method and path."""

from collections.abc import Callable

from tests.hub import server_reading, server_writing

_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_MODEL = f"/api/models/{_NAME}"
_REVISION = "(?P<revision>[^/]+)"
_OID = "(?P<oid>[0-9a-f]{64})"
ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", "/api/whoami-v2", server_reading.who_am_i),
    ("POST", "/api/repos/create", server_writing.create),
    ("POST", "/api/validate-yaml", server_writing.validate_yaml),
    ("GET", _MODEL, server_reading.info),
    ("GET", f"{_MODEL}/revision/{_REVISION}", server_reading.info),
    ("GET", f"{_MODEL}/refs", server_reading.references),
    ("GET", f"{_MODEL}/commits/{_REVISION}", server_reading.commits),
    ("GET", f"{_MODEL}/tree/{_REVISION}(?P<folder>/.*)?", server_reading.tree),
    ("POST", f"{_MODEL}/paths-info/{_REVISION}", server_reading.paths_info),
    ("POST", f"{_MODEL}/branch/{_REVISION}", server_writing.branch),
    ("POST", f"{_MODEL}/preupload/{_REVISION}", server_writing.preupload),
    ("POST", f"{_MODEL}/commit/{_REVISION}", server_writing.commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", server_writing.batch),
    ("PUT", f"/lfs/{_NAME}/{_OID}", server_writing.upload),
    ("POST", f"/lfs/{_NAME}/{_OID}/verify", server_writing.verify),
    ("GET HEAD", f"/{_NAME}/resolve/{_REVISION}/(?P<path>.+)", server_reading.resolve),
    ("GET HEAD", f"/cdn/{_NAME}/{_OID}", server_reading.download),
)
