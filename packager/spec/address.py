"""Addresses of weights: what each scheme's looks like.

Keep in step: the classes of `packager/weights`, which read them (tests/unit/spec/test_spec_address.py compares).
An address ends up in the lock and in the package, where everyone can read it: none holds a secret.
"""

import re
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

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
SIGNING = frozenset({
    "access_token", "api_key", "apikey", "auth", "awsaccesskeyid", "password", "sas", "secret", "sig", "signature",
    "token", "x-amz-credential", "x-amz-security-token", "x-amz-signature", "x-goog-credential", "x-goog-signature",
})  # fmt: skip
"""Names, in lower case, of what the query of a web address signs or opens it with."""
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
        case "http" | "https":
            _check_web(text)
        case "s3":
            bucket, _, prefix = rest.removesuffix("/").partition("/")
            if not re.fullmatch(_BUCKET, bucket):
                raise problem(f"has no bucket's name: {quoted(bucket)}", f"write {FORMS['s3']}")
            if prefix:
                _refuse_parts(prefix)
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
    owner, _, within = rest.partition("/")
    name, slash, folder = within.partition("/")
    name, at, revision = name.partition("@")
    if at:
        mend = f"write hf://{owner}/{name}{slash}{folder}, and `revision: {revision}` beside it"
        raise problem("must not name a revision", mend)
    if owner in _HUB_KINDS:
        raise problem(f"must name a model's repository, not one of the hub's {owner}", form)
    if not (_HUB_NAME.fullmatch(owner) and _HUB_NAME.fullmatch(name)):
        raise problem(f"must name a repository of the hub, not {quoted(rest)}", form)
    if slash:
        _refuse_parts(folder)


def _check_web(text: str) -> None:
    form = f"write {FORMS['https']}; a folder's ends in / and has a SHA256SUMS in it"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise problem(f"is no address of the web: {error}", form) from error
    path = parts.path.removesuffix("/").removeprefix("/")
    if not host or not parts.path.strip("/"):
        raise problem("names no host" if not host else "names no file and no folder", form)
    if parts.scheme == "http" and not _is_this_machine(host):
        raise problem("must be https://, not http://: on the way anyone can read and change it", form)
    if {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)} & SIGNING:
        mend = "write the stable address that redirects to it; ~/.netrc holds logins"
        raise problem("is signed: it is a secret, and it expires", mend)
    if parts.fragment:
        raise problem("must not have a fragment (#): no server sees it", "remove it")
    _refuse_parts(path)


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


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
    """`revision` itself, or another field like it; refused where the source that it is of has none."""
    of = "tokenizer" if info.field_name == "tokenizer_revision" else "source"
    source = info.data.get(of)
    if revision is not None and source is not None and not source.startswith("hf://"):
        what = f"is for hf:// alone: {source.partition('://')[0]}:// has no revisions"
        raise problem(what, "remove it: the lock pins every file by its sha256")
    return revision
