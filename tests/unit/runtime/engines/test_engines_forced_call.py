import json
from itertools import product

from packager.runtime.engine import Tools
from packager.runtime.engines.forced_call import ForcedCall, forced_call

TOOLS = [{"name": "get", "parameters": {}}, {"name": "get_all", "parameters": {}}]
TEXT = '{"name": "get_all", "arguments": {"a": 1}'


def test_however_the_text_is_cut_the_call_is_the_same():
    for low, high in product(range(len(TEXT) + 1), repeat=2):
        call = ForcedCall(TOOLS)
        pieces = [TEXT[: min(low, high)], TEXT[min(low, high) : max(low, high)], TEXT[max(low, high) :]]
        first, *others = [piece for text in pieces for piece in call.feed(text)]
        assert first["function"]["name"] == "get_all"
        assert all(piece.keys() == {"index", "function"} for piece in others)
        arguments = "".join(piece["function"]["arguments"] for piece in (first, *others))
        assert json.loads(arguments) == {"a": 1}


def test_what_ends_before_the_arguments_is_no_call():
    call = ForcedCall(TOOLS)
    assert call.feed('{"name": "get') == ()
    assert not call.begun


def test_every_call_has_an_id_of_its_own():
    ids = {ForcedCall(TOOLS).feed(TEXT)[0]["id"] for _ in range(3)}
    assert len(ids) == 3


def test_an_answer_that_may_be_text_is_no_forced_call():
    tools = ({"type": "function", "function": TOOLS[0]},)
    assert forced_call(None) is None
    assert forced_call(Tools(tools)) is None
    assert forced_call(Tools(tools, "required")) is not None
