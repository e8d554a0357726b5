"""How an answer is given. Whatever goes wrong in gradwatch is logged and told; TensorBoard never sees it raise."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tensorboard.backend import http_util
from werkzeug import wrappers

from gradwatch.tensorboard_plugin.refused import RefusedError

JSON = "application/json"
_WORTH_PACKING = 1024
_UNCHANGED = 304


@dataclass(frozen=True)
class Answer:
    """A ready answer.

    Attributes:
        body: As it is sent; packed where ``packed`` says so.
        mime: Its type.
        code: HTTP status.
        packed: Whether ``body`` is gzip.
        headers: More of them.
    """

    body: bytes
    mime: str = JSON
    code: int = 200
    packed: bool = False
    headers: tuple[tuple[str, str], ...] = ()


def as_json(data: Any) -> Answer:
    """Strict JSON: what is not finite goes as the strings nan, inf and -inf."""
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    except ValueError:
        from gradwatch.records import number_to_json

        text = json.dumps(number_to_json(data), allow_nan=False, separators=(",", ":"))
    body = text.encode()
    if len(body) < _WORTH_PACKING:
        return Answer(body)
    return Answer(gzip.compress(body, 1, mtime=0), packed=True)


def refusal(text: str, code: int = 400, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """``{"error": text}``."""
    return Answer(json.dumps({"error": text}).encode(), code=code, headers=headers)


def application(answer: Callable[[Any], Answer]) -> Any:
    """A WSGI application that answers GET requests.

    Args:
        answer: Gives the answer to a request, or raises ``RefusedError``.
    """

    def respond(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = wrappers.Request(environ)
        given = _answered(answer, request)
        headers = dict(given.headers)
        if given.code == _UNCHANGED:  # TensorBoard's own helper would send a body with it
            headers |= {"Content-Type": given.mime, "X-Content-Type-Options": "nosniff"}
            return wrappers.Response(status=given.code, headers=headers)(environ, start_response)
        response = http_util.Respond(
            request, given.body, given.mime, code=given.code, content_encoding="gzip" if given.packed else None
        )
        if "Cache-Control" in headers:
            del response.headers["Expires"]
        response.headers.update(headers)
        return response(environ, start_response)  # type: ignore[no-any-return]

    return respond


def _answered(answer: Callable[[Any], Answer], request: Any) -> Answer:
    if request.method not in ("GET", "HEAD"):
        return refusal(f"{request.method[:20]} is not allowed here: ask with GET", 405, (("Allow", "GET, HEAD"),))
    try:
        return answer(request)
    except RefusedError as refused:
        return refusal(str(refused))
    except Exception as error:
        logging.getLogger("gradwatch").exception("gradwatch: the tab could not answer %s", request.path[:200])
        return as_json({"error": f"gradwatch failed ({type(error).__name__}); TensorBoard's own log says more"})
