"""Fetches single files from the Hugging Face hub or its mirror, with errors in words. HF_ENDPOINT and HF_TOKEN are respected."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from .files import REVISION, ModelFile

ENDPOINT = constants.ENDPOINT
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
DISK_ERRORS = (errno.EFBIG, errno.EIO, errno.EROFS)  # EFBIG: FAT32 has no files above 4 GB
# The HTTP library is another one in every major version; the base of its errors is found here in all of them.
NETWORK_ERRORS = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, OSError))


class HubError(Exception):
    """The hub did not give a file, with what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """What the hub says of a file.

    Attributes:
        digest: SHA-256 of a large file, git's SHA-1 of a small one.
        size: in bytes.
    """

    file: ModelFile
    url: str
    digest: str
    size: int


def look_up(file: ModelFile) -> RemoteFile:
    """Ask the hub for size and hash of a file.

    Raises:
        HubError: if the hub does not answer, has no such file, or wants a login.
    """
    url = hf_hub_url(file.repository, file.path, revision=REVISION, endpoint=ENDPOINT)
    with _errors_in_words(file):
        metadata = get_hf_file_metadata(url)
    if metadata.size is None or not DIGEST.fullmatch(metadata.etag or ""):
        raise HubError(
            f"{ENDPOINT} gives no size or no hash for {file.path}, so that the file could not be checked. "
            "Set HF_ENDPOINT to the hub or to a complete mirror of it; look for a proxy or a login page in between."
        )
    return RemoteFile(file, url, str(metadata.etag), metadata.size)


def fetch(remote: RemoteFile, destination: Path) -> None:
    """Write a file; what is there already is the beginning of it and is not fetched again.

    Raises:
        HubError: if the connection breaks; what has come stays for the next time.
    """
    with _errors_in_words(remote.file), destination.open("ab") as stream:
        while (present := stream.tell()) < remote.size:
            try:
                _fetch_rest(remote, stream)
            except HfHubHTTPError:
                raise
            except NETWORK_ERRORS:
                if stream.tell() == present:
                    raise  # nothing came: another try would not help


def _fetch_rest(remote: RemoteFile, stream: BinaryIO) -> None:
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a part of a compressed answer could not be continued
    name = Path(remote.file.name).name
    http_get(
        remote.url,
        cast(BinaryIO, _Limited(stream, remote.size)),
        resume_size=stream.tell(),
        headers=headers,
        expected_size=remote.size,
        displayed_filename=name,
    )


class _Limited:
    """A file that takes no more bytes than were announced, whatever a mirror sends."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size

    def write(self, data: bytes) -> int:
        if self._stream.tell() + len(data) > self._size:
            raise HubError(f"{ENDPOINT} sends more than the {self._size:,} bytes that it announced. Set HF_ENDPOINT to another mirror.")
        return self._stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _errors_in_words(file: ModelFile) -> Iterator[None]:
    page = f"{ENDPOINT}/{file.repository}"
    try:
        yield
    except GatedRepoError as error:
        advice = "Open it in a browser, accept its terms, and set HF_TOKEN to your token."
        raise HubError(f"{page} is only for those who have accepted its terms. {advice}") from error
    except RepositoryNotFoundError as error:
        advice = "If it is a mirror, it lacks this repository: set HF_ENDPOINT to another one. If it wants a login, set HF_TOKEN."
        raise HubError(f"There is no {page}, or it is not public. {advice}") from error
    except EntryNotFoundError as error:
        raise HubError(f"{page} has no {file.path} (any more). Look there for its new name, and download it by hand.") from error
    except OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE is set, so nothing can be downloaded. Unset it (and TRANSFORMERS_OFFLINE).") from error
    except NETWORK_ERRORS as error:
        raise HubError(_network_problem(file, error)) from error


def _network_problem(file: ModelFile, error: Exception) -> str:
    reason = str(error).partition("\n")[0] or type(error).__name__
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full while {file.name} is written. Make room and run the same command again; it goes on where it stopped."
    if getattr(error, "errno", None) in DISK_ERRORS:
        return f"{file.name} cannot be written any further ({reason}). Choose a folder on another disk with --models-dir."
    return (
        f"{file.path} could not be fetched from {ENDPOINT} ({reason}). Check the connection and run the same command again; "
        "it goes on where it stopped. If the hub cannot be reached from here, set HF_ENDPOINT to a mirror."
    )
