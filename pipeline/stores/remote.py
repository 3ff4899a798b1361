"""Object stores as pyarrow.fs has them: one table of schemes, bounded retries, what errors mean.

Credentials, region and endpoint come from the environment, as the stores' own tools take them; so
they are no part of a URL, stand in no file that we write, and each machine has its own. A URL is
taken letter by letter: `s3://bucket/a?b` names that key, or is a glob.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pf

from pipeline.errors import InputError, OutputError, StorageError

ATTEMPTS = 4
"""Of one request, with growing pauses between them. The library takes an attempt for lost when
nothing moves for 3 s."""
RETRY_SECONDS = 20
"""The same for Google's store, which is told a time."""


@cache
def filesystem(scheme: str, bucket: str) -> Any:
    """The pyarrow.fs.FileSystem that has the bucket. May ask the store for its region: OSError."""
    return _SCHEMES[scheme](bucket)


def _s3(bucket: str) -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint:
        region = pf.resolve_s3_region(bucket)
    asked = urlsplit(endpoint)
    return pf.S3FileSystem(
        region=region,
        scheme=asked.scheme or "https",
        endpoint_override=asked.netloc or None,
        # A small object is one PUT, not the three requests of an upload in pieces.
        allow_delayed_open=True,
        retry_strategy=pf.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def _gs(bucket: str) -> Any:
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST") or ""
    asked = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    return pf.GcsFileSystem(
        anonymous=bool(endpoint),
        scheme=asked.scheme if endpoint else "https",
        endpoint_override=asked.netloc or None,
        retry_time_limit=timedelta(seconds=RETRY_SECONDS),
    )


_SCHEMES: dict[str, Callable[[str], Any]] = {"s3": _s3, "gs": _gs}

_REFUSED = (
    ("ACCESS_DENIED", "check the credentials of this machine and the rights of the bucket"),
    ("INVALID_ACCESS_KEY_ID", "check the credentials of this machine"),
    ("SIGNATURE_DOES_NOT_MATCH", "check the credentials of this machine"),
    ("NO_SUCH_BUCKET", "make the bucket, or mend its name"),
    ("NO_SUCH_KEY", "check the path"),
    ("RESOURCE_NOT_FOUND", "check the path"),
    ("HTTP status 301", "name the bucket's region: AWS_REGION=..."),
    ("UNAUTHENTICATED", "check the credentials of this machine"),
    ("PERMISSION_DENIED", "check the credentials of this machine and the rights of the bucket"),
)
"""Words of what a store will refuse again, and what to do."""

_OF_A_STORE = ("AWS Error", "google::cloud", "curlCode")
"""Words of errors of requests. What else is said of them may pass: 503, no answer, a lost
connection. An OSError without them is of what was read: a damaged file."""


_LATER = "when the store answers, run the same command to go on"


def split(url: str) -> tuple[Any, str]:
    """The file system, and the path in it: bucket/key."""
    scheme, _, path = url.partition("://")
    return filesystem(scheme, path.partition("/")[0]), path.rstrip("/")


def bucket_of(url: str) -> str:
    """scheme://bucket"""
    scheme, _, path = url.partition("://")
    return f"{scheme}://{path.partition('/')[0]}"


def refuse_missing_bucket(url: str) -> None:
    """Raises OSError: a listing tells no missing bucket from an empty folder."""
    bucket = bucket_of(url)
    files, path = split(bucket)
    if files.get_file_info(path).type == pf.FileType.NotFound:
        raise OSError(f"NO_SUCH_BUCKET: there is no bucket {bucket}")


def may_pass(error: Exception) -> bool:
    """Whether the same request may be answered later."""
    said = str(error)
    return any(mark in said for mark in _OF_A_STORE) and not _advice(error)


def _advice(error: Exception) -> str:
    """What to do about what the store will refuse again."""
    if isinstance(error, FileNotFoundError):
        return "check the path"
    return next((do for mark, do in _REFUSED if mark in str(error)), "")


def write_error(where: str, error: OSError) -> OutputError:
    """The error to raise for an OSError met while writing; the store's words name the key."""
    message = f"{where}: cannot write: {_said(error)}; nothing half-written is published"
    if may_pass(error):
        return StorageError(f"{message}; {_LATER}")
    return OutputError(f"{message}; {_advice(error) or 'choose another output'}")


@contextmanager
def reading(where: str) -> Iterator[None]:
    """OSError inside comes out as InputError, or as StorageError where it may pass."""
    try:
        yield
    except OSError as e:
        raise read_error(where, e) from e


def read_error(where: str, error: OSError) -> InputError | StorageError:
    message = f"{where}: cannot be read: {_said(error)}"
    if may_pass(error):
        return StorageError(f"{message}; {_LATER}")
    return InputError(f"{message}; {_advice(error) or 'truncated or damaged'}")


def put(files: Any, path: str, data: Any) -> None:
    """One object, whole or absent.

    All bytes go in one call: an exception between two would leave the stream to be closed by its
    destructor, and half of the data under the name. A failed call leaves the stream failed, and
    closing it publishes nothing.
    """
    stream = files.open_output_stream(path)
    stream.write(data)
    stream.close()


def _said(error: OSError) -> str:
    """The store's words without the number of the request."""
    return str(error).partition(" (Request ID")[0].strip()
