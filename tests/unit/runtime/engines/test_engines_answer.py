import pytest

from packager.errors import EngineError
from packager.runtime.engine import Likely, TokenLogprob
from packager.runtime.engines.answer import Answer

LIKELY = (TokenLogprob(Likely(b"x", -1.0)),)


def test_tokens_are_counted_and_the_last_delta_has_the_usage():
    answer = Answer("the engine", (), 7)
    assert answer.delta("one", 2, None, LIKELY) == ("one", 2, None, None, LIKELY, ())
    assert answer.delta("", 0, None) == ("", 0, None, None, (), ())
    assert answer.delta(" two", 1, "length") == (" two", 1, "length", (7, 3), (), ())


def test_a_stop_string_ends_it_wherever_the_text_is_cut():
    answer = Answer("the engine", ("never", "o t"), 1)
    assert answer.delta("tw", 1, None).text == "tw"
    assert answer.delta("o", 1, None).text == ""
    assert answer.delta(" th", 1, None, LIKELY) == ("", 1, "stop", (1, 3), LIKELY, ())


def test_what_was_held_back_comes_with_the_end():
    answer = Answer("the engine", ("o t",))
    assert answer.delta("two", 1, None).text == "tw"
    assert answer.delta(" ", 1, "stop") == ("o ", 1, "stop", (0, 2), (), ())


def test_a_reason_that_is_none_of_ours_is_a_failure():
    with pytest.raises(EngineError, match="LMDeploy ended the request: error"):
        Answer("LMDeploy", ()).delta("", 0, "error")


def test_a_request_that_never_began():
    answer = Answer("the engine", ())
    answer.prompt_tokens = 5
    assert answer.unbegun() == ("", 0, "abort", (5, 0), (), ())
