"""Requests and responses in JSON: OpenAI's, of which fields that mean nothing to this model are ignored, and ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
DataUrl = Annotated[str, Field(description="A data URL, such as data:image/png;base64,...; no other is opened.")]


class Given(BaseModel):
    """What clients send: of exactly these types; other fields are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


# ---------------------------------------------------------------- chat


class TextPart(Given):
    type: Literal["text"]
    text: str


class ImageUrl(Given):
    url: DataUrl


class ImagePart(Given):
    type: Literal["image_url"]
    image_url: ImageUrl


class Message(Given):
    """A turn; pictures that an assistant drew come back as it gave them, in `images`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        str | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(max_length=64)] | None
    ) = None
    images: Annotated[list[ImagePart], Field(max_length=16)] | None = None


class StreamOptions(Given):
    include_usage: bool = False


class ChatRequest(Given):
    """A conversation to answer.

    Ours are `num_beams`, 5 unless given, where 1 writes token by token; and `rerank`, which chooses among the captions
    of the beams as `SeedLM.caption` does, and has no effect on what is no caption. A model that was trained on chats
    searches by beams only where either is given, for a caption or a short answer.
    """

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    modalities: Annotated[list[Literal["text", "image"]], Field(min_length=1, max_length=2)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed | None = None
    stop: Annotated[str, Field(min_length=1)] | Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(max_length=4)
    ] | None = None  # fmt: skip
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    num_beams: Annotated[int, Field(ge=1, le=10)] | None = None
    rerank: bool | None = None
    tools: list[Any] | None = None
    logprobs: bool | None = None

    @model_validator(mode="after")
    def _check_supported(self) -> Self:
        if self.tools or self.logprobs:
            raise ValueError("tools and logprobs are not supported by this model")
        return self


class Usage(BaseModel):
    """Tokens of the language model; a picture is its codes, begin and end of image."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ResponseImageUrl(BaseModel):
    url: str


class ResponseImage(BaseModel):
    index: int
    type: Literal["image_url"] = "image_url"
    image_url: ResponseImageUrl


class ResponseMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    images: list[ResponseImage] | None = None


class Choice(BaseModel):
    index: Literal[0] = 0
    message: ResponseMessage
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """An answer. `warnings` is ours: of pictures and words far from what the model knows."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    warnings: list[str] | None = None


# ---------------------------------------------------------------- pictures


class ImagesRequest(Given):
    """A prompt to draw. `seed` and `temperature` are ours.

    The temperature is that of the codes: 0 for one picture and 1 for more, unless it is given.
    """

    model: str | None = None
    prompt: str
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: Annotated[str, Field(pattern=r"^(auto|[0-9]{2,4}x[0-9]{2,4})$")] | None = None
    seed: Seed | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    stream: bool | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None


class DrawnImage(BaseModel):
    """A picture, as base64 or as a data URL."""

    b64_json: str | None = None
    url: str | None = None


class ImagesResponse(BaseModel):
    created: int
    data: list[DrawnImage]
    size: str
    output_format: str
    seed: int
    warnings: list[str] | None = None


# ---------------------------------------------------------------- codes


class EncodeRequest(Given):
    """Pictures to encode."""

    model: str | None = None
    images: Annotated[list[DataUrl], Field(min_length=1, max_length=64)]


class PictureCodes(BaseModel):
    """A picture's codes; `is_far` when it is far from the pictures of training."""

    index: int
    codes: list[int]
    is_far: bool


class EncodeResponse(BaseModel):
    """`codebook` tells one codebook from another: codes mean nothing in another one; `encoder` tells what made them."""

    model: str
    codebook: str
    encoder: str
    data: list[PictureCodes]


class DecodeRequest(Given):
    """Codes to draw, one list a picture."""

    model: str | None = None
    codes: Annotated[
        list[Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=1024)]],
        Field(min_length=1, max_length=16),
    ]
    codebook: str | None = None
    seed: Seed | None = None
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None


class DecodeResponse(BaseModel):
    model: str
    data: list[DrawnImage]
    output_format: str
    seed: int


class NearCode(BaseModel):
    """A code, and the Euclidean distance of its vector."""

    code: int
    distance: float


class NearestResponse(BaseModel):
    """The codes nearest to one, itself first."""

    codebook: str
    code: int
    data: list[NearCode]


# ---------------------------------------------------------------- the server


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "seedtok"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    model: str
