import pytest

from packager import environ
from packager.errors import SettingError


@pytest.mark.parametrize(
    ("value", "means"),
    [("", ""), ("1", "1"), ("true", "1"), ("Yes", "1"), ("ON", "1"), ("0", ""), ("false", ""), ("no", ""), ("off", "")],
)
def test_switch(value, means):
    assert environ.OFFLINE.get({"PACKAGER_OFFLINE": value}) == means


@pytest.mark.parametrize(
    ("variable", "value"),
    [(environ.OFFLINE, "ture"), (environ.OFFLINE, "2"), (environ.VERIFY, "1"), (environ.LOG_PROMPTS, "all")],
)
def test_a_word_that_says_nothing_is_refused(variable, value):
    with pytest.raises(SettingError) as caught:
        variable.get({variable.name: value})
    (problem,) = caught.value.problems
    assert problem.where == variable.name
    assert repr(value) in problem.what
    assert problem.mend


def test_any_value_where_no_words_are_told():
    assert environ.CACHE.get({"PACKAGER_CACHE": "ture"}) == "ture"
    assert environ.CACHE.get({}) == ""
