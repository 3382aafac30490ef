import enum


class ErrorCode(str, enum.Enum):
    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    MODEL_NOT_FOUND = "model_not_found"
    REQUEST_CONFLICT = "request_conflict"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    UNSUPPORTED_FEATURE = "unsupported_feature"
    PREPROCESS_FAILED = "preprocess_failed"
    REQUEST_CANCELLED = "request_cancelled"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    INTERNAL_ERROR = "internal_error"


class RequestError(RuntimeError):
    def __init__(self, code, message=None):
        self.code = code
        self.message = message or f"({code.value})"
        self.status_code = 400
        super().__init__(self.message)


class SafeRunException(Exception):
    """A cancellation that has been seen to."""
