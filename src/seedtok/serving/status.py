"""/v1/models, /healthz and /metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from seedtok.serving.errors import ApiError, ErrorBody
from seedtok.serving.protocol import Health, Model, ModelList
from seedtok.serving.service import Service, TheService

router = APIRouter(responses={"4XX": {"model": ErrorBody}})


@router.get("/v1/models", response_model=ModelList)
async def models(service: TheService) -> Any:
    """Lists the one model that is served."""
    return ModelList(data=[_model(service)])


@router.get("/v1/models/{model:path}", response_model=Model)
async def model(model: str, service: TheService) -> Any:
    """Describes a model by its name."""
    service.check_model(model)
    return _model(service)


def _model(service: Service) -> Model:
    return Model(id=service.name, created=service.created)


@router.get("/healthz", response_model=Health, responses={503: {"model": ErrorBody}})
async def health(service: TheService) -> Any:
    """Whether the thread that runs the model is alive."""
    if not service.worker.is_alive:
        raise ApiError(503, "the model's thread is not running", "not_running")
    return Health(model=service.name)


@router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
async def metrics(service: TheService) -> Any:
    """Counters in the text format of Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
