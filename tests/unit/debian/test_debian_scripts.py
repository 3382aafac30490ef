import json
import re
from importlib.resources import files

import pytest
from fakes.debs import describe

from packager.debian.actions import Alternative
from packager.debian.scripts import judge_scripts, reviews, script_hash

HELLO = describe("hello", b"", "2.0-1")


def judge(text, script="postinst"):
    return judge_scripts(HELLO, {"control": b"", script: text.encode()}, "amd64")


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\nset -e\nexit 0\n",
        '#!/bin/sh\nset -eu\ncase "$1" in\n  configure|abort-upgrade)\n  ;;\n  *) ;;\nesac\n',
        "#!/bin/sh\nset -e\n# Automatically added by dh_makeshlibs/13\nldconfig\n# End automatically added section\n",
        "#!/bin/sh\n# Automatically added by dh_python3\npy3compile -p hello\n# End automatically added section\n\nexit 0\n",
    ],
)
def test_trivial_scripts_are_harmless(text):
    verdict = judge(text)
    assert verdict.problems == ()
    assert verdict.actions == ()


@pytest.mark.parametrize("script", ["prerm", "postrm", "config"])
def test_scripts_that_never_run_are_not_judged(script):
    assert judge("rm -rf /\n", script).problems == ()


def test_an_unknown_script_is_refused_with_its_hash():
    text = "#!/bin/sh\nset -e\nadduser --system hello\n"
    problem = judge(text).problems[0]
    digest = script_hash(text, HELLO, "amd64")
    assert problem.what == (
        f"package hello 2.0-1 needs its postinst script, which nobody has reviewed (sha256 {digest}), "
        "and packager runs no maintainer scripts"
    )
    assert problem.where == "hello_2.0-1_amd64.deb"
    assert problem.mend == (
        "use a base image from a registry that has the package installed (`image.base`), leave the package out, "
        "or report the script so that it is reviewed"
    )


def test_generated_blocks_of_unknown_kinds_are_refused():
    block = "# Automatically added by dh_installsysusers/13\nsystemd-sysusers\n# End automatically added section\n"
    assert judge(f"#!/bin/sh\n{block}").problems


def test_hidden_behind_trivial_lines():
    assert judge("#!/bin/sh\nset -e\nexit 0; reboot\n").problems
    assert judge('case "$1" in\nconfigure) reboot ;;\nesac\n').problems


def test_generated_alternatives_are_read():
    text = (
        "# Automatically added by dh_installalternatives/13.7.1\n"
        'if [ "$1" = "configure" ]; then\n'
        "        update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\\n"
        "            --slave /usr/bin/nawk nawk /usr/bin/mawk\n"
        "fi\n# End automatically added section\n"
    )
    slaves = (("/usr/bin/nawk", "nawk", "/usr/bin/mawk"),)
    assert judge(text).actions == (Alternative("/usr/bin/awk", "awk", "/usr/bin/mawk", 5, slaves),)


def test_the_hash_survives_a_new_version_and_another_architecture():
    old = script_hash("x 2.0-1 /usr/lib/x86_64-linux-gnu/a y:amd64 \n\n", HELLO, "amd64")
    new = script_hash("x 3.1 /usr/lib/aarch64-linux-gnu/a y:arm64\n", describe("hello", b"", "3.1"), "arm64")
    assert old == new
    assert old != script_hash("z\n", HELLO, "amd64")


def test_the_reviewed_list_is_whole():
    listed = json.loads(files("packager.debian").joinpath("reviewed.json").read_bytes())
    keys = [(entry["package"], entry["script"], entry["sha256"]) for entry in listed]
    assert keys == sorted(keys)
    for entry in listed:
        assert set(entry) == {"package", "script", "sha256", "why", "instead"}
        assert entry["script"] in {"preinst", "postinst"}
        assert entry["why"]
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in entry["sha256"])
        for action in entry["instead"]:
            assert action["do"] in {"alternative", "copy", "folder", "link", "write"}
    assert len(reviews()) == sum(len(entry["sha256"]) for entry in listed)
