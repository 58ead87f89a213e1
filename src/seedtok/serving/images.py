"""/v1/images/generations: pictures of a prompt; /v1/seed/...: pictures to codes and back, and codes near others."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from PIL import Image

from seedtok.serving.call import TheCall
from seedtok.serving.engine import FAR
from seedtok.serving.errors import ApiError, ErrorBody
from seedtok.serving.pictures import data_url, encoded
from seedtok.serving.protocol import (
    DecodeRequest,
    DecodeResponse,
    DrawnImage,
    EncodeRequest,
    EncodeResponse,
    ImagesRequest,
    ImagesResponse,
    NearCode,
    NearestResponse,
    PictureCodes,
)
from seedtok.serving.service import Service, new_seed
from seedtok.serving.tasks import Decode, Draw, Encode

router = APIRouter(responses={"4XX": {"model": ErrorBody}})
LARGEST = 2048  # pixels of a side


@router.post("/v1/images/generations", response_model=ImagesResponse, response_model_exclude_none=True)
async def generate(body: ImagesRequest, call: TheCall) -> Any:
    """Draws a prompt: the language model writes codes, the image decoder draws them."""
    service = call.service
    service.check_model(body.model)
    service.check_can(write=True, draw=True)
    service.check_prompt(body.prompt, "prompt")
    if body.stream:
        raise ApiError(400, "pictures are not streamed: leave stream out", "invalid_value", "stream")
    size = _size(body.size)
    count, seed = body.n or 1, new_seed(body.seed)
    warmth = (0.0 if count == 1 else 1.0) if body.temperature is None else body.temperature
    [outcome] = await call.work([Draw(body.prompt, seed, count, warmth)])
    drawn = outcome.pictures
    kind = body.output_format or "png"
    return ImagesResponse(
        created=int(time.time()),
        data=await call.in_thread(service.picture_threads, _written, drawn, kind, body.response_format == "url", size),
        size="x".join(map(str, size or drawn[0].size)),
        output_format=kind,
        seed=seed,
        warnings=list(outcome.warnings) or None,
    )


def _size(given: str | None) -> tuple[int, int] | None:
    """Width and height; None for the image decoder's own."""
    if given in (None, "auto"):
        return None
    width, height = map(int, given.split("x"))
    if not 16 <= min(width, height) <= max(width, height) <= LARGEST:
        raise ApiError(400, f"a size of {given}; sides are from 16 to {LARGEST}", "invalid_value", "size")
    return width, height


def _written(
    pictures: list[Image.Image], kind: str, as_url: bool = False, size: tuple[int, int] | None = None
) -> list[DrawnImage]:
    if size is not None:
        pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    if as_url:
        return [DrawnImage(url=data_url(picture, kind)) for picture in pictures]
    return [DrawnImage(b64_json=encoded(picture, kind)) for picture in pictures]


@router.post("/v1/seed/encode", response_model=EncodeResponse)
async def encode(body: EncodeRequest, call: TheCall) -> Any:
    """Encodes pictures as codes."""
    service = call.service
    service.check_model(body.model)
    pictures = await call.pictures(body.images, "images")
    outcomes = await call.work([Encode(picture) for picture in pictures])
    return EncodeResponse(
        model=service.name,
        codebook=service.engine.codebook_id,
        encoder=service.engine.encoder,
        data=[
            PictureCodes(index=index, codes=list(outcome.codes), is_far=FAR in outcome.warnings)
            for index, outcome in enumerate(outcomes)
        ],
    )


@router.post("/v1/seed/decode", response_model=DecodeResponse, response_model_exclude_none=True)
async def decode(body: DecodeRequest, call: TheCall) -> Any:
    """Draws codes. All pictures start from the same noise, that of `seed`."""
    service = call.service
    service.check_model(body.model)
    service.check_can(draw=True)
    _check_codes(body, service)
    seed = new_seed(body.seed)
    tasks = [Decode(tuple(row), seed, body.steps, body.guidance_scale) for row in body.codes]
    outcomes = await call.work(tasks)
    pictures = [picture for outcome in outcomes for picture in outcome.pictures]
    kind = body.output_format or "png"
    data = await call.in_thread(service.picture_threads, _written, pictures, kind)
    return DecodeResponse(model=service.name, data=data, output_format=kind, seed=seed)


@router.get("/v1/seed/codes/{code}", response_model=NearestResponse)
async def nearest(
    code: Annotated[int, Path(ge=0, lt=2**31)],
    call: TheCall,
    count: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Any:
    """Lists the codes whose vectors in the codebook are nearest to that of a code."""
    engine = call.service.engine
    if code >= engine.codebook_size:
        raise ApiError(404, f"codes are from 0 to {engine.codebook_size - 1}", "not_found", "code")
    found = await call.in_thread(call.service.threads, engine.nearest_codes, code, count)
    data = [NearCode(code=other, distance=distance) for other, distance in found]
    return NearestResponse(codebook=engine.codebook_id, code=code, data=data)


def _check_codes(body: DecodeRequest, service: Service) -> None:
    """Raises ApiError for codes of another codebook, too few or too many, or out of range."""
    engine = service.engine
    if body.codebook not in (None, engine.codebook_id):
        message = f"codes of codebook {body.codebook!r}; this model's is {engine.codebook_id!r}"
        raise ApiError(400, message, "invalid_value", "codebook")
    for number, row in enumerate(body.codes):
        if len(row) != engine.code_count or max(row) >= engine.codebook_size:
            message = f"a picture is {engine.code_count} codes from 0 to {engine.codebook_size - 1}"
            raise ApiError(400, message, "invalid_value", f"codes.{number}")
