"""HTTP with one server: JSON in and out, files as streams, errors in words."""

from __future__ import annotations

import http.client
import ipaddress
import json
import mimetypes
import os
import ssl
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError
from urllib3.fields import RequestField

from .address import Headers, without_login
from .errors import ComfyError, NoAnswer, PromptRefused, Unavailable, refusal

try:
    from ...wan_s2v_model.untrusted import read_json
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.untrusted import read_json

TIMEOUT_S = 60.0
BLOCK_BYTES = 2**20
MB = 2**20
MOST_ANSWER_BYTES = 256 * MB  # of JSON; that of all nodes has about 5
VIEW = "/view"
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # beside SSL_CERT_FILE and SSL_CERT_DIR, which OpenSSL reads itself
LOGIN = "--auth USER:PASSWORD, or a token with --header"
# What stands in front of ComfyUI answers so; ComfyUI itself does not.
REFUSALS: dict[int, tuple[type[ComfyError], str]] = {
    401: (NoAnswer, f"{{url}} asks for a login, or does not accept the given one (status 401). Give {LOGIN}."),
    403: (NoAnswer, f"{{url}} lets nobody through without the right to it (status 403). Give {LOGIN}."),
    407: (NoAnswer, "The proxy on the way to {url} asks for a login (status 407). Put it into HTTP_PROXY or HTTPS_PROXY."),
    413: (
        PromptRefused,
        "{url} does not take a request of {size_mb:,.1f} MB (status 413). Raise the limit of what stands in front of ComfyUI "
        "(nginx: client_max_body_size), or give a compressed file.",
    ),
    **dict.fromkeys(
        (408, 425, 429, 502, 503, 504, *range(520, 528), 530),  # 52x and 530 are Cloudflare's
        (Unavailable, "Something at {url} answers, but cannot reach ComfyUI behind it now (status {status}). Is ComfyUI running?"),
    ),
}


class Transport:
    """Sends requests to a server.

    Args:
        url: e.g. http://127.0.0.1:8188, or https://user:password@example.org/comfyui
        headers: sent with every request.
        timeout_s: longest wait for a connection, and for each part of an answer.
    Attributes:
        url: without user and password, as it may be shown.
        headers: with the login that stood in the address.
        certificates: whom to trust over TLS, None without it.
        proxy: what the environment puts in between, None for nothing.
    Raises:
        ValueError: if the URL is none of a server.
        NoAnswer: if the certificates that the environment names cannot be read.
    """

    def __init__(self, url: str, headers: Headers = (), timeout_s: float = TIMEOUT_S) -> None:
        self.url, login = without_login(url)
        self.headers = dict((*login, *headers))
        self.certificates = trusted_certificates() if self.url.startswith("https") else None
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._session.trust_env = not is_near(self.url)
        self._session.auth = lambda request: request  # else requests would put a login of ~/.netrc over the one that was given
        self._session.headers.update({"Connection": "close", **self.headers})  # minutes lie between requests: a kept connection may be dead
        if self.certificates:
            self._session.mount("https://", _Tls(self.certificates))
        self.proxy = select_proxy(self.url, get_environ_proxies(self.url)) if self._session.trust_env else None

    def get(self, path: str, *, finite: bool = True) -> Any:
        """The JSON at a path; `finite` as of `read_json`."""
        with self.open("GET", path) as response:
            return self._parsed(response, self._content(response), finite)

    def post(self, path: str, body: Mapping[str, Any] | Multipart) -> Any:
        """Send JSON or a form; return the JSON of the answer, None if it is empty."""
        data, content_type = (body, body.content_type) if isinstance(body, Multipart) else (json.dumps(body).encode(), "application/json")
        with self.open("POST", path, data=data, headers={"Content-Type": content_type}) as response:
            content = self._content(response)
            return self._parsed(response, content) if content else None

    def open(self, method: str, path: str, **how: Any) -> requests.Response:
        """An answer of which only the headers have come; use it in a `with`.

        Raises:
            NoAnswer: if nothing answers, or something that is not ComfyUI or does not let us through to it.
            ComfyError, PromptRefused: if ComfyUI answers with an error.
        """
        try:
            response = self._session.request(method, self.url + path, timeout=self._timeout_s, stream=True, allow_redirects=False, **how)
        except requests.RequestException as error:
            raise self._no_answer(error, len(how.get("data", b""))) from error
        if not response.ok or response.is_redirect:
            with response:
                raise self._refusal(path, response)
        return response

    def not_comfyui(self, response: requests.Response) -> Unavailable:
        """The error for an answer that ComfyUI would not give: from elsewhere, or from a proxy while ComfyUI is away."""
        page = f" It shows a web page with status {response.status_code}: is there a login in between?" if is_page(response) else ""
        return Unavailable(f"What answers at {self.url} is not ComfyUI. Is the address right?{page}")

    def _no_answer(self, error: requests.RequestException, sent_bytes: int = 0) -> NoAnswer:
        cause = root_cause(error)
        if isinstance(error, requests.exceptions.SSLError):
            is_known = not isinstance(cause, ssl.SSLCertVerificationError)
            own = "If it is a certificate of your own, name its file (PEM) in SSL_CERT_FILE, and check the host name in the address."
            return NoAnswer(f"No safe connection to {self.url} ({cause}). {'Is it an http:// address?' if is_known else own}")
        if isinstance(error, requests.exceptions.ProxyError):
            host = urlsplit(self.url).hostname
            return Unavailable(f"The proxy that HTTP_PROXY or HTTPS_PROXY names has no way to {self.url} ({cause}). Set NO_PROXY={host}?")
        if sent_bytes > MB:
            advice = "Does something in front of ComfyUI limit the size of requests?"
            return Unavailable(f"The connection to {self.url} broke while {sent_bytes / MB:,.0f} MB were sent ({cause}). {advice}")
        return Unavailable(f"ComfyUI does not answer at {self.url} ({cause}). Is it running?")

    def _refusal(self, path: str, response: requests.Response) -> ComfyError:
        status = response.status_code
        if response.is_redirect:
            return NoAnswer(f"{self.url} sends requests on to {_origin(response)}. Give that address, or what it takes to log in there.")
        if status in REFUSALS:
            kind, words = REFUSALS[status]
            size_mb = int(response.request.headers.get("Content-Length", 0)) / MB
            return kind(words.format(url=self.url, status=status, size_mb=size_mb))
        if is_page(response) or (status == http.HTTPStatus.NOT_FOUND and path != VIEW):  # every ComfyUI has the other paths
            return self.not_comfyui(response)
        try:
            answer = read_json(self._content(response))
        except (ValueError, NoAnswer):
            answer = None
        return refusal(path, status, answer)

    def _parsed(self, response: requests.Response, content: bytes, finite: bool = True) -> Any:
        try:
            return read_json(content, finite=finite)
        except ValueError as error:
            raise self.not_comfyui(response) from error

    def _content(self, response: requests.Response) -> bytes:
        content = bytearray()
        try:
            for block in response.iter_content(BLOCK_BYTES):
                content += block
                if len(content) > MOST_ANSWER_BYTES:
                    raise self.not_comfyui(response)
            return bytes(content)
        except requests.RequestException as error:
            raise self._no_answer(error) from error


class _Tls(HTTPAdapter):
    """Connections over TLS that trust what the system trusts, not only the list that comes with requests."""

    def __init__(self, certificates: ssl.SSLContext) -> None:
        self._certificates = certificates
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._certificates, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._certificates, **options)


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


def is_page(response: requests.Response) -> bool:
    """Whether it is a web page, which ComfyUI's API never gives."""
    return "html" in response.headers.get("Content-Type", "")


def trusted_certificates() -> ssl.SSLContext:
    """Those of the system, and those that the environment names."""
    context = ssl.create_default_context()
    for name in CERTIFICATES:
        if place := os.environ.get(name):
            try:
                context.load_verify_locations(**{"capath" if os.path.isdir(place) else "cafile": place})
            except OSError as error:  # of which ssl.SSLError is one
                raise NoAnswer(f"{name} names {place}, which holds no certificates that can be read ({error}).") from error
    return context


def is_near(url: str) -> bool:
    """Whether a server is on this machine or in its own network, where no proxy that the environment names is in between."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(".local")


def root_cause(error: BaseException) -> BaseException:
    """What is behind the errors of several layers of network code."""
    while isinstance(inner := error.__cause__ or error.__context__, OSError | http.client.HTTPException | HTTPError):
        error = inner
    return error


def _origin(response: requests.Response) -> str:
    """Where a redirection leads, without what may be secret in it."""
    target = urlsplit(response.next.url if response.next and response.next.url else "")
    return f"{target.scheme}://{target.netloc.rpartition('@')[2]}"
