from server.pb import open_inference_pb2 as _open_inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Sentiment(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SENTIMENT_UNSPECIFIED: _ClassVar[Sentiment]
    NEGATIVE: _ClassVar[Sentiment]
    POSITIVE: _ClassVar[Sentiment]
SENTIMENT_UNSPECIFIED: Sentiment
NEGATIVE: Sentiment
POSITIVE: Sentiment

class Customer(_message.Message):
    __slots__ = ("credit_score", "geography", "gender", "age", "tenure", "balance", "num_of_products", "has_credit_card", "is_active_member", "estimated_salary")
    CREDIT_SCORE_FIELD_NUMBER: _ClassVar[int]
    GEOGRAPHY_FIELD_NUMBER: _ClassVar[int]
    GENDER_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    TENURE_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    NUM_OF_PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    HAS_CREDIT_CARD_FIELD_NUMBER: _ClassVar[int]
    IS_ACTIVE_MEMBER_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_SALARY_FIELD_NUMBER: _ClassVar[int]
    credit_score: float
    geography: str
    gender: str
    age: float
    tenure: float
    balance: float
    num_of_products: float
    has_credit_card: bool
    is_active_member: bool
    estimated_salary: float
    def __init__(self, credit_score: _Optional[float] = ..., geography: _Optional[str] = ..., gender: _Optional[str] = ..., age: _Optional[float] = ..., tenure: _Optional[float] = ..., balance: _Optional[float] = ..., num_of_products: _Optional[float] = ..., has_credit_card: _Optional[bool] = ..., is_active_member: _Optional[bool] = ..., estimated_salary: _Optional[float] = ...) -> None: ...

class PredictChurnRequest(_message.Message):
    __slots__ = ("customers", "model_version")
    CUSTOMERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    customers: _containers.RepeatedCompositeFieldContainer[Customer]
    model_version: str
    def __init__(self, customers: _Optional[_Iterable[_Union[Customer, _Mapping]]] = ..., model_version: _Optional[str] = ...) -> None: ...

class ChurnPrediction(_message.Message):
    __slots__ = ("probability",)
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    probability: float
    def __init__(self, probability: _Optional[float] = ...) -> None: ...

class PredictChurnResponse(_message.Message):
    __slots__ = ("predictions", "model_version")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[ChurnPrediction]
    model_version: str
    def __init__(self, predictions: _Optional[_Iterable[_Union[ChurnPrediction, _Mapping]]] = ..., model_version: _Optional[str] = ...) -> None: ...

class DigitImage(_message.Message):
    __slots__ = ("encoded", "pixels")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    pixels: bytes
    def __init__(self, encoded: _Optional[bytes] = ..., pixels: _Optional[bytes] = ...) -> None: ...

class ClassifyDigitRequest(_message.Message):
    __slots__ = ("images", "model_version")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[DigitImage]
    model_version: str
    def __init__(self, images: _Optional[_Iterable[_Union[DigitImage, _Mapping]]] = ..., model_version: _Optional[str] = ...) -> None: ...

class DigitPrediction(_message.Message):
    __slots__ = ("digit", "probability", "probabilities")
    DIGIT_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    digit: int
    probability: float
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, digit: _Optional[int] = ..., probability: _Optional[float] = ..., probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class ClassifyDigitResponse(_message.Message):
    __slots__ = ("predictions", "model_version")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[DigitPrediction]
    model_version: str
    def __init__(self, predictions: _Optional[_Iterable[_Union[DigitPrediction, _Mapping]]] = ..., model_version: _Optional[str] = ...) -> None: ...

class AnalyzeSentimentRequest(_message.Message):
    __slots__ = ("texts", "model_version")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    model_version: str
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., model_version: _Optional[str] = ...) -> None: ...

class SentimentPrediction(_message.Message):
    __slots__ = ("sentiment", "positive")
    SENTIMENT_FIELD_NUMBER: _ClassVar[int]
    POSITIVE_FIELD_NUMBER: _ClassVar[int]
    sentiment: Sentiment
    positive: float
    def __init__(self, sentiment: _Optional[_Union[Sentiment, str]] = ..., positive: _Optional[float] = ...) -> None: ...

class AnalyzeSentimentResponse(_message.Message):
    __slots__ = ("predictions", "model_version")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[SentimentPrediction]
    model_version: str
    def __init__(self, predictions: _Optional[_Iterable[_Union[SentimentPrediction, _Mapping]]] = ..., model_version: _Optional[str] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "state", "model_name", "model_version", "attempts", "priority", "submitted_at_ms", "started_at_ms", "finished_at_ms", "deadline_ms", "result", "error")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Job.State]
        QUEUED: _ClassVar[Job.State]
        RUNNING: _ClassVar[Job.State]
        DONE: _ClassVar[Job.State]
        FAILED: _ClassVar[Job.State]
        CANCELLED: _ClassVar[Job.State]
        EXPIRED: _ClassVar[Job.State]
    STATE_UNSPECIFIED: Job.State
    QUEUED: Job.State
    RUNNING: Job.State
    DONE: Job.State
    FAILED: Job.State
    CANCELLED: Job.State
    EXPIRED: Job.State
    class Error(_message.Message):
        __slots__ = ("code", "message")
        CODE_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        code: int
        message: str
        def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: Job.State
    model_name: str
    model_version: str
    attempts: int
    priority: int
    submitted_at_ms: int
    started_at_ms: int
    finished_at_ms: int
    deadline_ms: int
    result: _open_inference_pb2.ModelInferResponse
    error: Job.Error
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[Job.State, str]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., attempts: _Optional[int] = ..., priority: _Optional[int] = ..., submitted_at_ms: _Optional[int] = ..., started_at_ms: _Optional[int] = ..., finished_at_ms: _Optional[int] = ..., deadline_ms: _Optional[int] = ..., result: _Optional[_Union[_open_inference_pb2.ModelInferResponse, _Mapping]] = ..., error: _Optional[_Union[Job.Error, _Mapping]] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("request", "idempotency_key", "priority", "deadline_seconds", "result_ttl_seconds")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RESULT_TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    request: _open_inference_pb2.ModelInferRequest
    idempotency_key: str
    priority: int
    deadline_seconds: float
    result_ttl_seconds: float
    def __init__(self, request: _Optional[_Union[_open_inference_pb2.ModelInferRequest, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., priority: _Optional[int] = ..., deadline_seconds: _Optional[float] = ..., result_ttl_seconds: _Optional[float] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("model_name", "state", "page_size", "page_token")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    state: Job.State
    page_size: int
    page_token: str
    def __init__(self, model_name: _Optional[str] = ..., state: _Optional[_Union[Job.State, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListDeadRequest(_message.Message):
    __slots__ = ("model_name", "page_size", "page_token")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    page_size: int
    page_token: str
    def __init__(self, model_name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDeadResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RetryDeadRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DropDeadRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DropDeadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
