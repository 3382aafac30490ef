"""The strict YAML reader: what it takes, each thing it refuses with exact words, and that nothing else ever comes out."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.spec.parse import MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse_yaml


def read(text: str) -> object:
    document = parse_yaml(text.encode())
    assert document.problems == []
    return document.value


def refused(data: str | bytes) -> list[str]:
    document = parse_yaml(data.encode() if isinstance(data, str) else data)
    return [f"{at.line}:{at.column} {problem.what} | {problem.mend}" for at, problem in document.problems]


def test_values_and_positions():
    document = parse_yaml(b"a:\n  - x\n  - {b: 7, 'c d': null}\ne: \"z\"\n")
    assert document.value == {"a": ["x", {"b": 7, "c d": None}], "e": "z"}
    assert {keys: (at.line, at.column) for keys, at in document.at.items()} == {
        (): (1, 1),
        ("a",): (2, 3),
        ("a", 0): (2, 5),
        ("a", 1): (3, 5),
        ("a", 1, "b"): (3, 9),
        ("a", 1, "c d"): (3, 19),
        ("e",): (4, 4),
    }
    assert document.keys["a", 1, "c d"].column == 12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("+5", 5),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        # text to YAML 1.2, something else to YAML 1.1
        ("no", "no"),
        ("NO", "NO"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-11-20", "2026-11-20"),
        ("1.2.1", "1.2.1"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("=", "="),
        ("<<", "<<"),
        ('"8"', "8"),
        ("'true'", "true"),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    found = read(f"a: {text}\n")["a"]
    assert (found, type(found)) == (value, type(value))


def test_windows_line_ends_are_read():
    assert read("a: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 0777", "1:4 '0777' is a different number to different readers of YAML"),
        ("a: 0x1F", "1:4 '0x1F' is a different number to different readers of YAML"),
        ("a: 0o17", "1:4 '0o17' is a different number to different readers of YAML"),
        ("a: 01_0", "1:4 '01_0' is a different number to different readers of YAML"),
        ("a: " + "9" * 19, "1:4 a number of more than 18 digits"),
    ],
)
def test_numbers_that_readers_disagree_on(text, expected):
    (found,) = refused(text)
    assert found.startswith(expected)
    assert "in quotes" in found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            "a: &x 1\nb: *x\nc: *x\n",
            (
                "1:4 anchors and aliases (`&` and `*`) are not allowed | "
                "write the value out, or put it in quotes where text is meant"
            ),
        ),
        ("a: !!str 8", "1:4 the tag 'tag:yaml.org,2002:str' is not allowed | write plain YAML"),
        ("a: !!python/object/apply:os.system [id]", None),
        ("!x {a: 1}", "1:1 the tag '!x' is not allowed | write plain YAML"),
        (
            "%YAML 1.1\n---\na: 1",
            "1:1 directives are not allowed | remove the lines that start with `%`",
        ),
        ("a: 1\n---\nb: 2", "2:1 a second document starts here | write one spec a file"),
        ("a: 1\nb: 2\na: 3", "3:1 the key 'a' is here twice; first on line 1 | keep one of them"),
        ("a:\n\t- 1", "2:1 a tab indents this line | indent with spaces"),
        ("a:\t1", "1:3 a tab between values | write spaces"),
        (b"\xef\xbb\xbfa: 1", "1:1 the file starts with a byte order mark | save it as UTF-8 without one"),
        (b"a: 1\nb: \xff", "2:4 the file is not UTF-8: byte 0xff | save it as UTF-8"),
        (b"a\x00b", "1:2 the control character U+0000 | remove it"),
        ("a: x\u202ey", "1:5 the control character U+202E | remove it"),
        ("a: x\u2028y", "1:5 the control character U+2028 | remove it"),
        ("1: x", '1:1 a key must be text, not the number 1 | put it in quotes: "1"'),
        ("true: x", '1:1 a key must be text, not the boolean true | put it in quotes: "true"'),
        ("~: x", '1:1 a key must be text, not nothing | put it in quotes: "~"'),
        ("? [a]\n: x", "1:3 a key must be text, not a list or mapping | write a plain word"),
        ("a: 'x", "1:6 the file ends inside a quoted text | close the quote"),
        ("a: b: c", "1:5 a colon where no key can be | "),
        ("a: 1\n  b: 2", "2:4 a colon where no key can be | "),
        ("a: 1\nbc\n", "3:1 a key without a colon | write `key: value`"),
        ('a: "\\U99999999"', "1:2 this is not YAML: an escape or number after this place is out of range | "),
        ("a: {b: 1", "1:9 a comma or a closing `}` is missing before this place | close what is open"),
        ("a: [b", "1:6 a comma or a closing `]` is missing before this place | close what is open"),
        ("a: [", "1:5 a value is missing here | write a value, or close what is open"),
        (": x", "1:1 this line does not fit the lines above it | give the keys of one block the same indentation"),
        ("a: @x", "1:4 this is not YAML: found character '@' that cannot start any token | put text that holds "),
        (b" " * (MAX_BYTES + 1), "1:1 the file is larger than 1024 KiB | "),
        ("[" * 40, f"1:{MAX_DEPTH + 2} nested deeper than {MAX_DEPTH} levels | "),
        ("[" + "a," * MAX_VALUES + "]", f"1:{2 * MAX_VALUES} more than {MAX_VALUES} values | "),
    ],
)
def test_refusals(data, expected):
    (found,) = refused(data)
    if expected:
        assert found.startswith(expected)


def test_several_problems_are_found_in_one_reading():
    assert [line.split(" | ")[0] for line in refused("a: 1\na: 2\nb: &x 07\nc: !t 1\n")] == [
        "2:1 the key 'a' is here twice; first on line 1",
        "3:4 anchors and aliases (`&` and `*`) are not allowed",
        "3:4 '07' is a different number to different readers of YAML",
        "4:4 the tag '!t' is not allowed",
    ]


def test_a_bomb_is_one_problem_and_never_expands():
    rows = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    rows += [
        f"{key}: &{key} [{','.join(['*' + before] * 9)}]" for before, key in zip("abcdefgh", "bcdefghi", strict=False)
    ]
    assert len(refused("\n".join(rows))) == 1


@pytest.mark.parametrize("unit", ["{a: 1, a: ", "{1: ", "? ", "{? [", "- ", "[{a: "])
def test_depth_is_limited_on_every_way_down(unit):
    document = parse_yaml((unit * 5000).encode())
    assert document.problems[-1][1].what == f"nested deeper than {MAX_DEPTH} levels"


JUNK = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")),
    # pieces that YAML is made of reach much deeper than random text
    st.lists(st.sampled_from([*"{}[],:?-#&*!|>'\"%@`\n\t ax0\\~", ": ", "- ", "\n  ", "\\U", "---\n", "%YAML 1.1\n", "&a ", "*a ", "!!t "]), max_size=60)
    .map(lambda parts: "".join(parts).encode()),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(JUNK)
def test_nothing_but_a_document_ever_comes_out(data):
    document = parse_yaml(data)
    for position, problem in document.problems:
        assert position.line >= 1
        assert position.column >= 1
        assert problem.what


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(min_codepoint=32, max_codepoint=126)), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(PLAIN, st.booleans())
def test_what_yaml_writes_is_read_back(value, flow):
    text = yaml.dump({"root": value}, Dumper=NoAlias, default_flow_style=flow, default_style='"', width=10_000)
    # default_style quotes numbers with a tag; JSON-like text is the same without
    if "!!" not in text:
        assert read(text) == {"root": value}


class NoAlias(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True
