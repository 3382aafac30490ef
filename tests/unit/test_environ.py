import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.machine import missing

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
    [
        (environ.OFFLINE, "ture"),
        (environ.OFFLINE, "2"),
        (environ.VERIFY, "1"),
        (environ.LOG_PROMPTS, "all"),
        (environ.LOG_LEVEL, "bogus"),
    ],
)
def test_a_word_that_says_nothing_is_refused(variable, value):
    with pytest.raises(SettingError) as caught:
        variable.get({variable.name: value})
    (problem,) = caught.value.problems
    assert problem.where == variable.name
    assert repr(value) in problem.what
    assert problem.mend


@pytest.mark.parametrize("variable", ["PACKAGER_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_stores_in_a_link_that_leads_nowhere(tmp_path, variable):
    below = {"PACKAGER_CACHE": "", "XDG_CACHE_HOME": "packager", "HOME": ".cache/packager"}[variable]
    link = tmp_path / "values" / below
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "gone")
    given = {variable: str(tmp_path / "values")}
    with pytest.raises(SettingError) as caught:
        environ.cache_root(given)
    (problem,) = caught.value.problems
    assert problem.where == str(link)
    assert problem.what == f"the folder of the stores is a link to {tmp_path}/gone, which is not there"
    assert "PACKAGER_CACHE" in problem.mend
    (tmp_path / "gone").mkdir()
    assert environ.cache_root(given) == link


def test_stores_that_do_not_exist_yet_or_may_not_be_looked_at(tmp_path):
    assert environ.cache_root({"PACKAGER_CACHE": str(tmp_path / "new")}) == tmp_path / "new"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(SettingError, match="is a link to"):
        environ.cache_root({"PACKAGER_CACHE": str(loop)})


def test_a_user_without_a_home_is_asked_for_the_folder():
    if os.geteuid() != 0:
        missing("only root can become a user that the system does not know")
    # The process becomes it by itself: the interpreter may lie where nobody else may look.
    code = "import os; from packager.environ import home, cache_root; os.setuid(54321); print(home()); cache_root()"
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=False)
    assert done.stdout == "None\n"
    assert "SettingError: PACKAGER_CACHE: nothing says where the stores are: this user has no home" in done.stderr
    assert environ.home({"HOME": "/home/ada"}) == Path("/home/ada")


def test_every_variable_is_told_of():
    """The page of environment variables is made from ALL."""
    declared = {value.name for value in vars(environ).values() if isinstance(value, environ.Variable)}
    assert {variable.name for variable in environ.ALL} == declared
    assert len(environ.ALL) == len(declared)


def test_any_value_where_no_words_are_told():
    assert environ.CACHE.get({"PACKAGER_CACHE": "ture"}) == "ture"
    assert environ.CACHE.get({}) == ""
