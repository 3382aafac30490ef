"""POST /v2/models/NAME/infer: the inputs of `triton.py` as tensors, in JSON or as the binary extension has them.

Every tensor has one element. A text is its length in four bytes, little-endian, and its UTF-8.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ...errors import RequestError
from ..engine import Delta
from ..fields import Fields
from .http import Raw
from .sse import EventShape, Reply
from .strictjson import parse_json
from .triton import INPUTS, OUTPUTS, Asked, as_object, head_of, outputs_of, parse_inputs

HEADER = b"inference-header-content-length"
"""Says how many bytes of the body are JSON, when binary tensors follow."""
_NO_EVENTS = EventShape(b"", b"", b"", lambda _: b"")


def parse_infer(body: bytes, header: bytes | None, request_id: str, model: str) -> Reply:
    """The request; `header` is the size of its JSON, when binary tensors follow it. Raises RequestError."""
    size = _size(header, len(body))
    fields = Fields(parse_json(body[:size]))
    inputs = _inputs(fields.take("inputs"), body[size:])
    parameters = dict(as_object(fields.take("parameters"), "parameters"))
    binary = parameters.pop("binary_data_output", False)
    outputs = fields.take("outputs")
    wanted = _wanted(outputs, binary=binary is True)
    inputs |= {f"return_{name}": True for name in wanted if outputs and name != "text_output"}
    asked = parse_inputs(inputs | {"id": fields.take("id"), "parameters": parameters}, request_id)
    fields.finish()

    def whole(text: str, last: Delta) -> Any:
        return _encode(asked, model, outputs_of(asked, asked.prefix + text, last), wanted)

    return Reply(asked.request, stream=False, shape=_NO_EVENTS, whole=whole)


def _size(header: bytes | None, whole: int) -> int:
    if header is None:
        return whole
    if not header.isdigit() or len(header) > 9 or int(header) > whole:
        raise RequestError("Inference-Header-Content-Length must be the size of the JSON at the body's beginning")
    return int(header)


def _inputs(value: Any, binary: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for at, tensor in enumerate(_list(value, "inputs")):
        where = f"inputs[{at}]"
        fields = Fields(tensor, where)
        name, kind = fields.text("name") or "", fields.text("datatype")
        if name not in INPUTS or name in found:
            raise fields.refusal("name", f"must be one of {', '.join(INPUTS)}, each once")
        if kind != INPUTS[name]:
            raise fields.refusal("datatype", f"must be {INPUTS[name]} for {name}")
        if not all(type(one) is int and one == 1 for one in _list(fields.take("shape"), f"{where}.shape")):
            raise fields.refusal("shape", "must be [1]: every tensor has one element")
        inner = Fields(as_object(fields.take("parameters"), where), f"{where}.parameters")
        size = inner.integer("binary_data_size", 0, len(binary))
        inner.finish()
        data = fields.take("data")
        fields.finish()
        if size is None:
            found[name] = _only(data, f"{where}.data")
        elif data is None:
            found[name], binary = _decode(INPUTS[name], binary[:size], where), binary[size:]
        else:
            raise fields.refusal("data", "cannot come with binary_data_size")
    if binary:
        raise RequestError("the body has more binary data than its inputs name", where="inputs")
    return found


def _decode(kind: str, data: bytes, where: str) -> Any:
    if kind == "BOOL" and data in (b"\x00", b"\x01"):
        return data == b"\x01"
    if kind == "BYTES" and len(data) >= 4 and struct.unpack_from("<I", data)[0] == len(data) - 4:
        try:
            return data[4:].decode()
        except UnicodeDecodeError:
            raise RequestError(f"{where} is not UTF-8", where=where) from None
    raise RequestError(f"{where} is not one element of {kind}", where=where)


def _wanted(value: Any, *, binary: bool) -> dict[str, bool]:
    """The outputs that are asked for, and whether in binary. All that the inputs ask for, when none is named."""
    if value in (None, []):
        return dict.fromkeys(OUTPUTS, binary)
    found: dict[str, bool] = {}
    for at, output in enumerate(_list(value, "outputs")):
        fields = Fields(output, f"outputs[{at}]")
        name = fields.text("name") or ""
        if name not in OUTPUTS:
            raise fields.refusal("name", f"must be one of {', '.join(OUTPUTS)}")
        inner = Fields(as_object(fields.take("parameters"), "outputs"), f"outputs[{at}].parameters")
        found[name] = inner.flag("binary_data") if inner.given("binary_data") else binary
        inner.finish()
        fields.finish()
    return found


def _encode(asked: Asked, model: str, values: Mapping[str, Any], wanted: Mapping[str, bool]) -> Any:
    tensors, binary = list[dict[str, Any]](), b""
    for name in (name for name in wanted if name in values):
        tensor: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": [1]}
        if wanted[name]:
            data = _binary(values[name])
            tensor["parameters"] = {"binary_data_size": len(data)}
            binary += data
        else:
            tensor["data"] = [values[name]]
        tensors.append(tensor)
    answer = head_of(asked, model) | {"outputs": tensors}
    if not binary:
        return answer
    head = orjson.dumps(answer)
    return Raw(head + binary, b"application/octet-stream", ((HEADER, str(len(head)).encode()),))


def _binary(value: Any) -> bytes:
    data = struct.pack("<I", value) if isinstance(value, int) else str(value).encode()
    return data if isinstance(value, int) else struct.pack("<I", len(data)) + data


def _only(data: Any, where: str) -> Any:
    if len(_list(data, where)) != 1:
        raise RequestError(f"{where} must have one element", where=where)
    return data[0]


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise RequestError(f"{where} must be a list", where=where)
    return value
