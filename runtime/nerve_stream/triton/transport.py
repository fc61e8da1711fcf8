"""One connection to a Triton server, by gRPC or HTTP: tensors there and back, and every failure as one of our errors."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from importlib import import_module
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from nerve_runtime import BundleError, CompatibilityError, HungError, NerveError, ResourceError, UsageError
from nerve_stream.triton import messages

DEFAULT_PORTS = {"grpc": 8001, "http": 8000}
HEADER_LENGTH = "Inference-Header-Content-Length"
INSTALL = 'the client needs tritonclient, which is not installed; run: pip install "nerve-deploy[triton]"'
OVERLOAD_PHRASES = ("Exceeds maximum queue size", "Request timeout expired", "maximum inflight")
MISSING_PHRASES = ("is not found", "unknown model")


class ForgottenError(UsageError):
    """The server does not know the sequence of a request that did not start one."""


class Connection(ABC):
    """A server and one model of it. Not for several threads at once.

    Args:
        address: as given, for messages.
        model: name of the model.
        timeout_s: longest wait for an answer, seconds.
    """

    def __init__(self, address: str, model: str, timeout_s: float) -> None:
        self.address, self.model, self.timeout_s = address, model, timeout_s

    def check_ready(self) -> None:
        """Say what is missing where the model cannot be asked now.

        Raises:
            ResourceError: nothing answers at the address, or the model is not ready.
            UsageError: the server has no such model.
        """
        with self._errors():
            if self._is_ready():
                return
            known = self._is_known()
        if not known:
            raise UsageError(
                f"the Triton server at {self.address} has no model {self.model!r}; start it on a repository that "
                "nerve-build triton wrote, or name another model"
            )
        raise ResourceError(
            f"model {self.model!r} of the Triton server at {self.address} is not ready; wait for it, or look into the "
            "server's log"
        )

    def infer(
        self, tensors: Mapping[str, Any], sequence: int, *, start: bool = False, end: bool = False
    ) -> dict[str, Any]:
        """Send a request of a sequence and return the outputs by name.

        Raises:
            ForgottenError: the sequence is not known and `start` is not given.
            NerveError: what the model says; or ResourceError where the server is not there or refuses for want of room,
                HungError where it does not answer in time.
        """
        with self._errors():
            return self._infer(tensors, sequence, start=start, end=end)

    @abstractmethod
    def close(self) -> None:
        """Close the connection; closing twice is fine."""

    @abstractmethod
    def _is_ready(self) -> bool: ...

    @abstractmethod
    def _is_known(self) -> bool: ...

    @abstractmethod
    def _infer(self, tensors: Mapping[str, Any], sequence: int, *, start: bool, end: bool) -> dict[str, Any]: ...

    @contextmanager
    def _errors(self) -> Iterator[None]:
        raised = import_module("tritonclient.utils").InferenceServerException
        try:
            yield
        except raised as error:
            raise self._translated(str(error.message()), str(error.status() or "")) from error
        except TimeoutError as error:
            raise self._hung() from error
        except (OSError, HTTPException) as error:
            raise self._unreachable(str(error)) from error

    def _translated(self, message: str, status: str) -> NerveError:
        sentence = " ".join(message.split())
        if messages.START_IS_MISSING in sentence:
            return ForgottenError(sentence)
        if (ours := messages.error_of(sentence)) is not None:
            return ours
        if "DEADLINE_EXCEEDED" in status or "Deadline Exceeded" in sentence or "timed out" in sentence:
            return self._hung()
        if any(phrase in sentence for phrase in OVERLOAD_PHRASES):
            return ResourceError(
                f"the Triton server at {self.address} has too much to do: {sentence}; send this frame again later, or fewer"
            )
        if any(phrase in sentence for phrase in MISSING_PHRASES):
            return UsageError(f"the Triton server at {self.address} cannot be asked: {sentence}")
        if "INVALID_ARGUMENT" in status or status == "400":
            return UsageError(f"the Triton server at {self.address} refused the request: {sentence}")
        if "UNAVAILABLE" in status or status == "503":
            return self._unreachable(sentence)
        return BundleError(f"the Triton server at {self.address} failed: {sentence or status}; look into its log")

    def _hung(self) -> HungError:
        return HungError(
            f"the Triton server at {self.address} did not answer within {self.timeout_s:g} s; is it stopped, or are all "
            "places for sequences taken? Try again, or give a longer timeout_s"
        )

    def _unreachable(self, reason: str) -> ResourceError:
        return ResourceError(
            f"the Triton server at {self.address} cannot be reached: {reason.strip() or 'the connection was closed'}; "
            "check the address and port, and that it is running"
        )


class GrpcConnection(Connection):
    """By gRPC."""

    def __init__(self, address: str, host: str, model: str, timeout_s: float) -> None:
        super().__init__(address, model, timeout_s)
        self._library: Any = import_module("tritonclient.grpc")
        self._client = self._library.InferenceServerClient(host)

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def _is_ready(self) -> bool:
        return bool(self._client.is_model_ready(self.model, client_timeout=self.timeout_s))

    def _is_known(self) -> bool:
        index = self._client.get_model_repository_index(client_timeout=self.timeout_s)
        return any(model.name == self.model for model in index.models)

    def _infer(self, tensors: Mapping[str, Any], sequence: int, *, start: bool, end: bool) -> dict[str, Any]:
        result = self._client.infer(
            self.model,
            input_tensors(self._library, tensors),
            sequence_id=sequence,
            sequence_start=start,
            sequence_end=end,
            client_timeout=self.timeout_s,
        )
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


class HttpConnection(Connection):
    """By HTTP, one connection a request; tritonclient's own keeps to the thread that made it, and so do its sockets."""

    def __init__(self, address: str, host: str, model: str, timeout_s: float) -> None:
        super().__init__(address, model, timeout_s)
        self._library: Any = import_module("tritonclient.http")
        self._utilities: Any = import_module("tritonclient.utils")
        self._host = host

    def close(self) -> None:
        """Nothing is kept open."""

    def _is_ready(self) -> bool:
        return self._answer("GET", f"/v2/models/{quote(self.model, safe='')}/ready")[0] == HTTPStatus.OK

    def _is_known(self) -> bool:
        index = json.loads(self._answer("POST", "/v2/repository/index")[2])
        return any(model["name"] == self.model for model in index)

    def _infer(self, tensors: Mapping[str, Any], sequence: int, *, start: bool, end: bool) -> dict[str, Any]:
        client = self._library.InferenceServerClient
        body, header_length = client.generate_request_body(
            input_tensors(self._library, tensors), sequence_id=sequence, sequence_start=start, sequence_end=end
        )
        headers = {} if header_length is None else {HEADER_LENGTH: str(header_length)}
        status, length, content = self._answer("POST", f"/v2/models/{quote(self.model, safe='')}/infer", body, headers)
        if status != HTTPStatus.OK:
            raise self._utilities.InferenceServerException(_reason(content), status=str(status))
        result = client.parse_response_body(content, header_length=None if length is None else int(length))
        return {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}

    def _answer(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, str | None, bytes]:
        """Status, length of the JSON before the tensors, and content of an answer."""
        with closing(HTTPConnection(self._host, timeout=self.timeout_s)) as connection:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheader(HEADER_LENGTH), answer.read()


def _reason(content: bytes) -> str:
    """The sentence of an answer that is no result."""
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")


def input_tensors(library: Any, tensors: Mapping[str, Any]) -> list[Any]:
    """Arrays as inputs of tritonclient; words are bytes in arrays of objects.

    Args:
        library: tritonclient.grpc or tritonclient.http.
        tensors: by name.
    """
    types = import_module("tritonclient.utils")
    inputs = []
    for name, array in tensors.items():
        tensor = library.InferInput(name, list(array.shape), types.np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        inputs.append(tensor)
    return inputs


def connect(address: str, model: str, timeout_s: float) -> Connection:
    """Make a connection; nothing is sent yet.

    Args:
        address: `grpc://host:8001` or `http://host:8000`; the ports may be left out.
        model: name of the model.
        timeout_s: longest wait for an answer, seconds.

    Raises:
        UsageError: the address is none of these.
        CompatibilityError: tritonclient is not installed.
    """
    parts = urlsplit(address)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path.strip("/"):
        raise UsageError(f"address is {address!r}, expected grpc://HOST:8001 or http://HOST:8000")
    try:
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except ValueError as error:
        raise UsageError(f"address is {address!r}: {error}; expected grpc://HOST:8001 or http://HOST:8000") from error
    kind = {"grpc": GrpcConnection, "http": HttpConnection}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    try:
        return kind(address, f"{host}:{port}", model, timeout_s)
    except ImportError as error:
        raise CompatibilityError(f"{INSTALL} ({error})") from error
