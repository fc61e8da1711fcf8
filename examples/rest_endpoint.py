"""A REST endpoint with starlette: POST a picture, get what is in it as JSON. Needs the extra `web`.

uvicorn --app-dir examples rest_endpoint:app
curl --data-binary @docs/images/coffee.jpg "http://127.0.0.1:8000/segment?classes=mug;table"
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Lock

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nerve_runtime import NerveError, Segmenter, SourceError
from nerve_runtime.images import decode_image
from nerve_runtime.result import result_record

BUNDLE, CLASSES = "bundles/tiny", "sunflower; zebra; water; sand; sky"
BODY_LIMIT = 25_000_000  # bytes


def answer(segmenter: Segmenter, lock: Lock, body: bytes, classes: str) -> dict[str, object]:
    """Segment one picture; a segmenter is for one thread at a time, so requests take turns."""
    rgb = decode_image(body, "the body")
    with lock:
        segmenter.set_classes(classes)
        return result_record(segmenter.segment_batch([rgb])[0], rle=True)


async def segment(request: Request) -> JSONResponse:
    """The areas, confidence and run lengths of each class seen."""
    body = b""
    async for chunk in request.stream():
        if len(body := body + chunk) > BODY_LIMIT:
            return JSONResponse({"error": f"the body is over {BODY_LIMIT} bytes"}, 413)
    state, classes = request.app.state, request.query_params.get("classes", CLASSES)
    try:
        return JSONResponse(await run_in_threadpool(answer, state.segmenter, state.lock, body, classes))
    except NerveError as error:
        return JSONResponse({"error": str(error)}, 415 if isinstance(error, SourceError) else 400)


@asynccontextmanager
async def opened(app: Starlette) -> AsyncIterator[None]:
    """The bundle is opened once, when the server starts."""
    with Segmenter.open(BUNDLE, CLASSES) as app.state.segmenter:
        app.state.lock = Lock()
        yield


app = Starlette(routes=[Route("/segment", segment, methods=["POST"])], lifespan=opened)
