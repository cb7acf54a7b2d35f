"""Brings one HTTP address to a `.part` file: resumed, retried, hashed while it streams.

HTTP as in RFC 9110 (Range, If-Range, Content-Range, Retry-After), through `requests`, which knows the
environment's proxies, certificates and netrc. Whether the bytes are the wanted ones is for `fetch` to say.
"""

from __future__ import annotations

import errno
import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from hmrbench.errors import DataError
from hmrbench.files import file_sha256, read_json

if TYPE_CHECKING:
    import requests  # at run time inside the functions: many import this module for its hash alone

FetchProgress = Callable[[int, int | None, str], None]  # bytes so far, bytes in all if known, file name

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_CHUNK = 1 << 20
_FRUITFUL = 1 << 20  # an attempt that brought this many bytes makes the count of failures start anew
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class NoRoomError(DataError):
    """The disk is full: another mirror would not help."""


class _AgainError(Exception):
    """This attempt failed in a way that may pass; `wait_s` if the server says when."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Http:
    """How patient a download is."""

    tries: int = 5  # fruitless attempts in a row until the address counts as failed
    backoff_s: float = 1.0  # after the first; doubles, with jitter
    longest_wait_s: float = 120.0
    connect_s: float = 20.0
    stall_s: float = 60.0  # without a byte, or too slow for that long: the attempt failed
    slowest_bytes_per_s: float = 1024.0
    redirects: int = 10
    max_bytes: int = 64 << 30
    sleep: Callable[[float], None] = time.sleep


def drop_part(part: Path) -> None:
    """Remove a part and what is remembered about it."""
    part.unlink(missing_ok=True)
    _meta_path(part).unlink(missing_ok=True)


def download(
    url: str, part: Path, name: str, *, known: bool, http: Http, progress: FetchProgress | None = None
) -> tuple[str, bool]:
    """Bring the whole file to `part`, going on from what an earlier attempt at the same file left there.

    Args:
        url: http or https address.
        part: where the bytes go; kept when the download fails, for the next attempt.
        name: what progress and errors call the file.
        known: whether its sha256 will be checked; if not, a server that states no length is refused, since
            nothing would tell a whole file from half of one.
        http: limits and patience.
        progress: called after every chunk.

    Returns:
        The sha256 in hex, and whether earlier bytes were reused.

    Raises:
        DataError: the address failed for good, or as often as `http.tries` allows.
        NoRoomError: the file is longer than what is free on the disk.
        OSError: the disk refuses a write.
    """
    failures, best = 0, _size(part)
    while True:
        try:
            return _attempt(url, part, name, known, http, progress)
        except DataError as error:
            raise type(error)(f"{url}: {error}") from error
        except _AgainError as error:
            failures = 1 if _size(part) - best >= _FRUITFUL else failures + 1
            best = max(best, _size(part))
            if failures >= http.tries:
                kept = f"; {_size(part)} bytes kept in {part}" if _read_meta(part, url) else ""
                raise DataError(f"{url}: {error} ({failures} attempts){kept}") from error
            backoff = http.backoff_s * 2 ** (failures - 1) * random.uniform(0.5, 1.5)
            http.sleep(min(http.longest_wait_s, backoff if error.wait_s is None else error.wait_s))


def check_address(url: str) -> None:
    """Refuse what no request can be sent to: ValueError on a bad port, bracket or character, or without a host."""
    parts = urlsplit(url)
    parts.port  # noqa: B018 (reading it checks it)
    if parts.scheme in ("http", "https"):
        if not parts.hostname:
            raise ValueError("no host")
        parts.hostname.encode("idna")  # a label that is empty or too long


def next_hop(url: str, location: str) -> str:
    """The absolute address a redirect leads to; DataError if it leaves https or HTTP altogether."""
    try:
        check_address(location)  # as it stands: joining would mend `http:///x` in silence
        target = urljoin(url, location)
        check_address(target)
    except ValueError as e:
        raise DataError(f"redirected to '{location[:200]}', which is no address ({e})") from e
    old, new = urlsplit(url).scheme, urlsplit(target).scheme
    if new not in ("http", "https") or (old == "https" and new == "http"):
        raise DataError(f"redirected from {old} to {new or 'nowhere'} ({target}), which is not followed")
    return target


def _attempt(
    url: str, part: Path, name: str, known: bool, http: Http, progress: FetchProgress | None
) -> tuple[str, bool]:
    import requests
    import urllib3

    meta = _read_meta(part, url)
    start = _size(part) if meta else 0
    if start and start == meta["total"]:
        return file_sha256(part), True
    headers = {"User-Agent": "hmrbench", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": meta["validator"]}
    try:
        with requests.Session() as session, _open(session, url, headers, http) as response:
            if response.status_code == 206 and start:
                total = _resumed_total(response, part, start, meta)
            else:
                start, total = 0, _whole_length(response, part, name, known)
                _begin(response, part, url, total)
            return _stream(response, part, name, start, total, http, progress), start > 0
    except requests.exceptions.SSLError as error:
        raise DataError(f"no trusted connection: {_reason(error)}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        if isinstance(error, ValueError):  # InvalidURL, InvalidSchema, LocationParseError, InvalidHeader and their like
            raise DataError(f"not an address, or not an answer to it: {error}") from error
        raise _AgainError(_reason(error)) from error
    except (ValueError, LookupError) as error:  # what they let through of a malformed proxy, host or header
        raise DataError(f"not an address, or not an answer to it: {error}") from error


def _open(session: requests.Session, url: str, headers: dict[str, str], http: Http) -> requests.Response:
    """The first response that is no redirect."""
    import requests

    for _ in range(http.redirects + 1):
        try:
            response = session.get(
                url, headers=headers, stream=True, allow_redirects=False, timeout=(http.connect_s, http.stall_s)
            )
        except OSError as error:
            if isinstance(error, requests.RequestException):
                raise
            raise DataError(str(error)) from error  # the file of certificates that the environment names is not there
        if not response.is_redirect:
            return response
        response.close()
        url = next_hop(url, response.headers["Location"])
    raise DataError(f"more than {http.redirects} redirects, the last to {url}")


def _whole_length(response: requests.Response, part: Path, name: str, known: bool) -> int | None:
    """Length of a body that starts at byte 0, None if not stated; raises on any other answer."""
    status = response.status_code
    if status == 416:  # the part is not a beginning of what is there now
        drop_part(part)
    if status in _TRANSIENT or status in (206, 416):
        raise _AgainError(f"HTTP {status}", _retry_after(response.headers.get("Retry-After")))
    if status != 200:
        raise DataError(f"HTTP {status}")
    headers = response.headers
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity" and not name.endswith((".gz", ".tgz")):  # some servers mark a .gz file so
        raise DataError(f"sent as {encoding} though asked for as it is")
    total = response.raw.length_remaining
    if total is None and not response.raw.chunked and not known:
        raise DataError("the server states no length and no sha256 is known: a cut file would go unnoticed")
    return total


def _begin(response: requests.Response, part: Path, url: str, total: int | None) -> None:
    """Forget the old part and remember how this one is resumed, before its first byte is written."""
    drop_part(part)
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    if validator:  # without one nothing would tell whether the rest belongs to the same file
        meta = {"url": url, "validator": validator, "etag": etag, "total": total}
        part.touch()
        _meta_path(part).write_text(json.dumps(meta), encoding="utf-8")


def _resumed_total(response: requests.Response, part: Path, start: int, meta: dict[str, Any]) -> int | None:
    """Length of the whole file, from an answer that goes on at byte `start` of the same file."""
    found = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "")
    )
    same = found and int(found[1]) == start and response.headers.get("ETag", meta["etag"]) == meta["etag"]
    total = None if not found or found[3] == "*" else int(found[3])
    if not same or meta["total"] not in (None, total):
        drop_part(part)
        raise _AgainError("the rest that was sent is not of the same file")
    return total


def _stream(
    response: requests.Response,
    part: Path,
    name: str,
    start: int,
    total: int | None,
    http: Http,
    progress: FetchProgress | None,
) -> str:
    """Write the body from byte `start` on; the sha256 of the whole part."""
    limit = http.max_bytes if total is None else min(total, http.max_bytes)
    if total is not None and total > http.max_bytes:
        raise DataError(f"states {total} bytes, more than the limit of {http.max_bytes}")
    if total is not None and total - start > (free := shutil.disk_usage(part.parent).free):
        raise NoRoomError(f"no room for {name}: {total - start} bytes needed, {free} free in {part.parent}")
    digest = hashlib.sha256()
    done, mark, marked = start, time.monotonic(), start
    with part.open("r+b" if start else "wb") as out:
        for chunk in iter(lambda: out.read(_CHUNK), b"") if start else ():
            digest.update(chunk)
        # read1: hands over what has arrived, so that a server that only drips is noticed
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            done += len(chunk)
            if done > limit:
                drop_part(part)
                raise DataError(f"the body does not end: more than {limit} bytes")
            out.write(chunk)
            digest.update(chunk)
            if progress:
                progress(done, total, name)
            if (waited := time.monotonic() - mark) >= http.stall_s:
                if done - marked < http.slowest_bytes_per_s * waited:
                    raise _AgainError(f"too slow: {done - marked} bytes in {waited:.1f} s")
                mark, marked = time.monotonic(), done
    if total is not None and done != total:
        raise _AgainError(f"got {done} of {total} bytes")
    return digest.hexdigest()


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait from a Retry-After header, a number or a date; None if unreadable: back off as usual."""
    import urllib3

    with suppress(urllib3.exceptions.InvalidHeader, ValueError, TypeError, LookupError, OverflowError):
        return None if value is None else float(urllib3.Retry().parse_retry_after(value))
    return None


def _meta_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_meta(part: Path, url: str) -> dict[str, Any]:
    """What is remembered about the part if it is one of this address, else {}."""
    with suppress(DataError):
        meta = read_json(_meta_path(part), "what is remembered")
        if isinstance(meta, dict) and meta.get("url") == url and {"validator", "etag", "total"} <= meta.keys():
            return meta
    return {}


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _reason(error: Exception) -> str:
    """The innermost cause that requests and urllib3 wrap, without their object names."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner)).rpartition(": ")[2] or type(error).__name__
