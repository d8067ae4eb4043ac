"""HTTP with one server: JSON in and out, files as streams, errors in words."""

from __future__ import annotations

import http.client
import ipaddress
import json
import mimetypes
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.fields import RequestField

from .errors import NoAnswer, refusal

TIMEOUT_S = 60.0
BLOCK_BYTES = 2**20
OBJECT_INFO = "/object_info"


class Transport:
    """Sends requests to a server.

    Args:
        url: e.g. http://127.0.0.1:8188
        timeout_s: longest wait for a connection, and for each part of an answer.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._session.trust_env = not is_near(url)
        self._session.headers["Connection"] = "close"  # minutes pass between requests: a kept connection may be dead

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        with self.open("GET", path) as response:
            return self._json(response)

    def post(self, path: str, body: Mapping[str, Any] | Multipart) -> Any:
        """Send JSON or a form; return the JSON of the answer, None if it is empty."""
        data, content_type = (body, body.content_type) if isinstance(body, Multipart) else (json.dumps(body), "application/json")
        with self.open("POST", path, data=data, headers={"Content-Type": content_type}) as response:
            return self._json(response) if self._content(response) else None

    def open(self, method: str, path: str, **how: Any) -> requests.Response:
        """An answer of which only the headers have come; use it in a `with`.

        Raises:
            NoAnswer: if nothing answers, or something that is not ComfyUI.
            ComfyError, PromptRefused: if ComfyUI answers with an error.
        """
        try:
            response = self._session.request(method, self.url + path, timeout=self._timeout_s, stream=True, **how)
        except requests.RequestException as error:
            raise self.no_answer(error) from error
        if not response.ok:
            with response:
                raise self._refusal(path, response)
        return response

    def no_answer(self, error: Exception) -> NoAnswer:
        """The error for a connection that failed."""
        return NoAnswer(f"ComfyUI does not answer at {self.url} ({root_cause(error)}). Is it running?")

    def _refusal(self, path: str, response: requests.Response) -> Exception:
        if path == OBJECT_INFO and response.status_code == http.HTTPStatus.NOT_FOUND:  # every ComfyUI has it
            return self._other_service()
        try:
            answer = json.loads(self._content(response))
        except ValueError:
            answer = None
        return refusal(path, response.status_code, answer)

    def _json(self, response: requests.Response) -> Any:
        try:
            return json.loads(self._content(response))
        except ValueError as error:
            raise self._other_service() from error

    def _content(self, response: requests.Response) -> bytes:
        try:
            return response.content
        except requests.RequestException as error:
            raise self.no_answer(error) from error

    def _other_service(self) -> NoAnswer:
        return NoAnswer(f"What answers at {self.url} is not ComfyUI. Is the address right?")


class Multipart:
    """A form with a file, read block by block while it is sent.

    Args:
        fields: name -> text of the other fields.
        name: of the file's field.
        file: open for reading; sent once, from where it stands.
        filename: told to the server; its ending says what the file is.
    """

    def __init__(self, fields: Mapping[str, str], name: str, file: BinaryIO, filename: str) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._file, self._size = file, os.fstat(file.fileno()).st_size - file.tell()
        text = "".join(f"--{boundary}\r\n{_headers(RequestField(key, ''))}{value}\r\n" for key, value in fields.items())
        kind = mimetypes.guess_type(filename)[0] or "application/octet-stream"
        self._head = f"{text}--{boundary}\r\n{_headers(RequestField(name, '', filename), kind)}".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        while block := self._file.read(BLOCK_BYTES):
            yield block
        yield self._tail


def _headers(field: RequestField, content_type: str | None = None) -> str:
    field.make_multipart(content_type=content_type)
    return field.render_headers()


def is_near(url: str) -> bool:
    """Whether a server is on this machine or in its own network, where no proxy that the environment names is in between."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"


def root_cause(error: BaseException) -> str:
    """What is behind the errors of several layers of network code, in words."""
    while isinstance(inner := error.__cause__ or error.__context__, OSError | http.client.HTTPException | HTTPError):
        error = inner
    return str(error) or type(error).__name__
