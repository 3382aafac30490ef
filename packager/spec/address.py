"""Addresses of weights: what each scheme's looks like.

Keep in step: the classes of `packager/weights`, which read them (tests/unit/spec/test_spec_address.py compares).
An address ends up in the lock and in the package, where everyone can read it: none holds a secret.
"""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

from .grammar import Grammar, problem, quoted

PLANNED_SCHEMES = ("oci",)
"""Schemes of the design that this version cannot read yet."""

FORMS = {
    "file": "file://PATH (a relative PATH starts at the spec's folder)",
    "hf": "hf://OWNER/NAME",
    "https": "https://HOST/PATH",
    "s3": "s3://BUCKET/PREFIX",
}
"""Each scheme's address in words."""

_ANY = f"write {', '.join(FORMS.values())}"
_HUB_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?(?<!\.git)")
_HUB_KINDS = ("buckets", "datasets", "kernels", "models", "spaces")
_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/?#]+).*")


def check_address(text: str) -> None:
    """Refuse, with PydanticCustomError, what no source can read."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise _without_scheme(text)
    if scheme in PLANNED_SCHEMES:
        raise problem(f"cannot be {scheme}:// yet: this version of packager does not read it", _ANY)
    if scheme != "file" and "@" in rest.partition("/")[0]:
        # Never shown: what stands there is a name and a password.
        mend = "remove what stands before the @: credentials come from the environment of whoever reads the weights"
        raise problem("must not hold a user or a password", mend)
    if page := _HUB_PAGE.fullmatch(text):
        mend = f"write hf://{page[1]}; `weights.file` and `weights.include` say which of its files"
        raise problem("is a page of the Hugging Face hub", mend)
    match scheme:
        case "file":
            if not rest:
                raise problem("names no path", f"write {FORMS['file']}")
        case "hf":
            _check_hub(rest)
        case "https":
            _check_web(text)
        case "s3":
            bucket, _, prefix = rest.removesuffix("/").partition("/")
            if not re.fullmatch(_BUCKET, bucket):
                raise problem(f"has no bucket's name: {quoted(bucket)}", f"write {FORMS['s3']}")
            _refuse_marks(prefix)
            if prefix:
                _refuse_parts(prefix)
        case "http":
            raise problem("must be https://, not http://: what is read when the lock is made has no checksum yet", _ANY)
        case _:
            raise problem(f"has an unknown scheme {quoted(scheme)}", _ANY)


def _without_scheme(text: str) -> PydanticCustomError:
    mend = _ANY
    owner, _, name = text.partition("/")
    if _HUB_NAME.fullmatch(owner) and _HUB_NAME.fullmatch(name):
        mend = f"write hf://{text} for the hub's, or file://{text} for a folder"
    elif re.fullmatch(r"[\w./-]+", text):
        mend = f"write file://{text}"
    return problem(f"must name its scheme, not just {quoted(text)}", mend)


def _check_hub(rest: str) -> None:
    form = "write hf://OWNER/NAME, or hf://OWNER/NAME/FOLDER for a folder within"
    address, at, revision = rest.partition("@")
    if at:
        raise problem("must not name a revision", f"write hf://{address}, and `revision: {revision}` beside it")
    owner, _, within = rest.partition("/")
    name, slash, folder = within.partition("/")
    if owner in _HUB_KINDS:
        raise problem(f"must name a model's repository, not one of the hub's {owner}", form)
    if not (_HUB_NAME.fullmatch(owner) and _HUB_NAME.fullmatch(name)):
        raise problem(f"must name a repository of the hub, not {quoted(rest)}", form)
    if slash:
        _refuse_parts(folder)


def _check_web(text: str) -> None:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise problem(f"is no address of the web: {error}", f"write {FORMS['https']}") from error
    path = parts.path.strip("/")
    if not host or not path:
        raise problem("names no host" if not host else "names no file or folder of it", f"write {FORMS['https']}")
    _refuse_marks(text)
    _refuse_parts(path)


def _refuse_marks(text: str) -> None:
    if "?" in text or "#" in text:
        # A signed address: its signature is a secret, and ends before the lock does.
        mend = "write it up to the ?: who reads the weights brings its own rights"
        raise problem("must not have a query or a fragment", mend)


def _refuse_parts(path: str) -> None:
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise problem(f"has a part that is empty, `.` or `..`: {quoted(path)}", "write the path that is meant")


Address = Annotated[str, Grammar(be="a source", check=check_address)]

Revision = Annotated[
    str,
    Grammar(
        r"(?![./-])(?!.*(?:\.\.|//))[A-Za-z0-9_./+-]+(?<![./])",
        "a branch, a tag or a commit",
        255,
        "the hub lists them under `Files and versions`",
    ),
]


def check_revision(revision: str | None, info: ValidationInfo) -> str | None:
    """`revision` itself; refused where the source beside it has none."""
    source = info.data.get("source")
    if revision is not None and source is not None and not source.startswith("hf://"):
        what = f"is for hf:// alone: {source.partition('://')[0]}:// has no revisions"
        raise problem(what, "remove it: the lock pins every file by its sha256")
    return revision
