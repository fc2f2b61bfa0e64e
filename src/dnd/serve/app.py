"""The server: `/` a page for people, `/api/v1` for programs, `/health` and `/ready`; and how it starts and stops."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import APIRouter, FastAPI, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from dnd import __version__
from dnd.common.compute import set_threads
from dnd.common.errors import ConfigError, DndError
from dnd.common.log import LOGGER, RESULT
from dnd.serve.guard import DRAWING_POLICY, LOOPBACK, BusyError, Guard, Limits, TooSlowError, Turns, problem
from dnd.serve.jobs import Jobs, UnknownJobError
from dnd.serve.models import (
    Ask,
    AskWhy,
    Explained,
    Health,
    JobInfo,
    JobRows,
    ModelInfo,
    Predictions,
    Problem,
    ServedModels,
    UnknownModelError,
    drawing,
    reasons_of,
)

T = TypeVar("T")
VERSION = "/api/v1"
_PAGE = resources.files("dnd.serve") / "page"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_OFTEN: dict[int | str, dict[str, Any]] = {
    403: {"model": Problem, "description": "Sent by a page of another site"},
    404: {"model": Problem, "description": "No such model or file"},
    408: {"model": Problem, "description": "Did not arrive in time"},
    413: {"model": Problem, "description": "Too large"},
    421: {"model": Problem, "description": "The server does not answer to that name"},
    422: {"model": Problem, "description": "Not what is expected"},
    503: {"model": Problem, "description": "Busy; try again after the seconds of Retry-After"},
    504: {"model": Problem, "description": "Took too long"},
}
_IN_JSON = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
# Of the operations whose own answers are no JSON.
_OFTEN_BESIDE: dict[int | str, dict[str, Any]] = {
    status: {"description": said["description"], "content": _IN_JSON} for status, said in _OFTEN.items()
}


class CsvResponse(Response):
    """A table."""

    media_type = "text/csv"


class SvgResponse(Response):
    """A drawing."""

    media_type = "image/svg+xml"


_FIELDS = ("file", "model", "smiles_column")  # of an upload
SomeModel = Annotated[str | None, Form(description="name of a model; the first one when left out")]


def build_app(models: ServedModels, limits: Limits, hosts: Sequence[str] = ()) -> FastAPI:
    """The server of some models.

    Args:
        models: that are asked.
        limits: limits that every request must keep.
        hosts: names under which it answers; empty = any.
    """

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        app.state.turns, app.state.jobs = Turns(limits), Jobs(Path(mkdtemp(prefix="dnd-serve-")), limits)
        yield
        app.state.jobs.close()

    app = FastAPI(
        title="dnd",
        version=__version__,
        description="Molecular properties from SMILES, with intervals and the domain of the model.",
        openapi_url=f"{VERSION}/openapi.json",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        lifespan=running,
    )
    app.state.models, app.state.limits = models, limits
    app.include_router(_page_routes())
    app.include_router(_prediction_routes(), prefix=VERSION)
    app.include_router(_file_routes(), prefix=VERSION)
    _answer_errors(app)
    app.add_middleware(Guard, limits=limits, hosts=hosts)
    return app


async def _in_turn(request: Request, work: Callable[[], T]) -> T:
    turns: Turns = request.app.state.turns
    return await turns.take(work)


def _page_routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    files = {f"/{entry.name}": entry for entry in _PAGE.iterdir() if Path(entry.name).suffix in _TYPES}

    @router.get("/")
    def page() -> Response:
        return Response(files["/index.html"].read_bytes(), media_type="text/html")

    @router.get("/page/{name}")
    def file(name: str) -> Response:
        found = files.get(f"/{name}")
        if found is None:
            return problem(404, "no such page")
        return Response(found.read_bytes(), media_type=_TYPES[Path(name).suffix])

    @router.get("/health")
    def health() -> Health:
        return Health(status="ok", version=__version__)

    @router.get("/ready")
    def ready(request: Request, response: Response) -> Health:
        free = request.app.state.jobs.takes_more
        response.status_code = 200 if free else 503
        return Health(status="ok" if free else "busy", version=__version__)

    return router


def _prediction_routes() -> APIRouter:
    router = APIRouter(tags=["predictions"])

    @router.get("/models")
    def models(request: Request) -> list[ModelInfo]:
        """The models that are served, and what they predict."""
        return [model.info() for model in request.app.state.models]

    @router.post("/predict", responses=_OFTEN)
    async def predict(request: Request, ask: Ask) -> Predictions:
        """Predict molecules at once; bad rows have their reason in `error`."""
        model, smiles = request.app.state.models.named(ask.model), _few(request, ask)
        rows = await _in_turn(request, lambda: model.rows(smiles))
        return Predictions(model=model.name, rows=rows, reasons=reasons_of(row.error for row in rows))

    @router.post("/predict.csv", responses=_OFTEN_BESIDE, response_class=CsvResponse)
    async def predict_csv(request: Request, ask: Ask) -> Response:
        """The same as a table, as `dnd predict` writes it."""
        model, smiles = request.app.state.models.named(ask.model), _few(request, ask)
        return CsvResponse(await _in_turn(request, lambda: model.csv(smiles)))

    @router.post("/explain", responses=_OFTEN)
    async def explain(request: Request, ask: AskWhy) -> Explained:
        """What each heavy atom adds to the prediction of a target."""
        model = request.app.state.models.named(ask.model)
        found: Explained = await _in_turn(request, lambda: model.explain(ask.smiles, ask.target))
        return found

    @router.get("/drawing", responses=_OFTEN_BESIDE, response_class=SvgResponse)
    async def draw(request: Request, smiles: Annotated[str, Query(max_length=4096)]) -> Response:
        """A molecule as SVG."""
        found = await _in_turn(request, lambda: drawing(smiles))
        if found is None:
            return problem(404, "there is no drawing of it")
        return SvgResponse(found, headers={"content-security-policy": DRAWING_POLICY})

    return router


def _few(request: Request, ask: Ask) -> list[str]:
    most = request.app.state.limits.smiles
    if len(ask.smiles) > most:
        raise HTTPException(422, f"{len(ask.smiles):,} molecules; at most {most:,} at once, more as a file")
    return ask.smiles


def _file_routes() -> APIRouter:
    router = APIRouter(tags=["files"], prefix="/files")

    @router.post("", status_code=202, responses=_OFTEN)
    async def send(
        request: Request,
        response: Response,
        file: Annotated[UploadFile, File(description="CSV, TSV, SMI, SDF or Parquet, also .gz")],
        model: SomeModel = None,
        smiles_column: Annotated[str | None, Form(description="found by name or content when left out")] = None,
    ) -> JobInfo:
        """Send a file; it waits for its turn."""
        _refuse_other_fields([name for name, _ in (await request.form()).multi_items()])
        jobs: Jobs = request.app.state.jobs
        served = request.app.state.models.named(model or None)
        name = Path(file.filename or "molecules.csv").name[:200]
        job = jobs.add(name, await file.read(), served, smiles_column or None)
        response.headers["location"] = f"{VERSION}/files/{job.id}"
        return jobs.info(job)

    @router.get("/{file_id}", responses=_OFTEN)
    def progress(request: Request, file_id: str) -> JobInfo:
        """How far a file is, and its bad rows by reason."""
        jobs: Jobs = request.app.state.jobs
        return jobs.info(jobs.find(file_id))

    @router.get("/{file_id}/rows", responses=_OFTEN)
    def rows(
        request: Request,
        file_id: str,
        start: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1)] = 50,
    ) -> JobRows:
        """Rows that have been predicted so far, a page of them at a time."""
        jobs: Jobs = request.app.state.jobs
        return jobs.page(jobs.find(file_id), start, count)

    early: dict[int | str, dict[str, Any]] = {409: {"content": _IN_JSON, "description": "Not done"}}

    @router.get("/{file_id}/result.csv", responses=_OFTEN_BESIDE | early, response_class=CsvResponse)
    def result(request: Request, file_id: str) -> Response:
        """The file's own rows and columns with the predictions behind them."""
        job = request.app.state.jobs.find(file_id)
        if job.state != "done":
            return problem(409, job.error or "the file is not done")
        return FileResponse(job.result, media_type="text/csv", filename="predictions.csv")

    @router.delete("/{file_id}", status_code=204, responses=_OFTEN)
    def remove(request: Request, file_id: str) -> None:
        """Stop a file, and forget it with its results."""
        jobs: Jobs = request.app.state.jobs
        jobs.remove(jobs.find(file_id))

    return router


def _refuse_other_fields(names: list[str]) -> None:
    """A field that is not read is refused, and one that is there twice, of which one would be taken without a word."""
    for name in names:
        if name not in _FIELDS:
            raise HTTPException(422, f"{name[:100]!r} is not a field; there are {', '.join(_FIELDS)}")
        if names.count(name) > 1:
            raise HTTPException(422, f"{name} is there twice")


def _answer_errors(app: FastAPI) -> None:
    """One line per error, whatever raises it."""
    from fastapi.exceptions import RequestValidationError

    def busy(request: Request, error: Exception) -> JSONResponse:
        return problem(503, "too many are waiting", {"retry-after": "5"})

    def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["loc"] == ("body",) or first["type"] == "json_invalid":
            return problem(422, "the request is not a JSON object; send one with content-type: application/json")
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return problem(422, f"{where or 'the request'}: {first['msg']}"[:300])

    def by_status(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    app.add_exception_handler(BusyError, busy)
    app.add_exception_handler(TooSlowError, lambda _, error: problem(504, "it took too long; ask for fewer at once"))
    app.add_exception_handler(UnknownModelError, lambda _, error: problem(404, str(error)))
    app.add_exception_handler(UnknownJobError, lambda _, error: problem(404, str(error)))
    app.add_exception_handler(DndError, lambda _, error: problem(422, str(error)))
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, by_status)


# Start the server, and stop it when asked: requests that run are answered first.

_SECONDS_TO_STOP = 30
_SECONDS_TO_ASK = 20  # from the first byte of a request, or from the connection, to the last line before its body


def serve(folders: Sequence[Path], host: str, port: int, limits: Limits, device: str = "auto") -> None:
    """Serve models until the process is told to stop (SIGTERM, or Ctrl-C).

    Args:
        folders: MODEL folders.
        host: address to listen at.
        port: likewise; 0 = one that is free.
        limits: limits that every request must keep.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        ConfigError, InputError, CorruptFileError: a model can't be opened, or the server can't listen at the address.
    """
    set_threads()
    models = ServedModels.load(folders, device)
    local = host in LOOPBACK
    app = build_app(models, limits, LOOPBACK if local else ())
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_Impatient,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.waiting + 64,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=_SECONDS_TO_STOP,
    )
    listening = _listening(host, port)
    server = _Server(config)
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # which uvicorn raises again once it has stopped
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup does
        signal.signal(signal.SIGHUP, server.handle_exit)
    if not local:
        LOGGER.warning(
            f"{host} is not a loopback address: anyone who can reach this machine can use the models without a password"
        )
    LOGGER.info(f"serving {', '.join(model.name for model in models)}; Ctrl-C stops")
    server.run(listening)
    LOGGER.info("stopped")


def _listening(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of `host`.

    Raises:
        ConfigError: there is no such address on this machine, or the port is in use or reserved.
    """
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sockets.append(socket.create_server(address, family=family))
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise ConfigError(
            f"can't listen at {host}, port {port}", found=error.strerror or str(error),
            next_step="Choose another --port, 0 for any free one, or another --host",
        ) from error  # fmt: skip
    return sockets


class _Impatient(H11Protocol):
    """A connection that is closed when the lines before a body are late; the body has a time of its own."""

    _ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        self._await_request()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        if self._ends is None:
            self._ends = self.loop.call_later(_SECONDS_TO_ASK, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None


class _Server(uvicorn.Server):
    """A server that says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            host, port = listening.getsockname()[:2]
            LOGGER.log(RESULT, f"http://{f'[{host}]' if ':' in host else host}:{port}/")
