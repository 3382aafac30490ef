"""The text that the hello model reads: the English in CPython's own documentation.

Two sources ship with every CPython: the language reference behind `help()` (`pydoc_data.topics`) and the docstrings of the
standard library. Modules are parsed, never imported, except the compiled ones whose docstrings exist only at run time.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import random
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

# Tests and demonstrations hold little prose; turtle and the bundled pip carry licences of their own; distutils left CPython in 3.12.
SKIPPED = {"test", "tests", "idle_test", "site-packages", "idlelib", "lib2to3", "distutils", "tkinter", "ensurepip"} | {
    "turtle.py",
    "turtledemo",
    "this.py",
    "antigravity.py",
}

QUESTIONS = (
    "What is {}?",
    "What is {}?",
    "What is {}",
    "what is {}?",
    "Explain {}.",
    "Tell me about {}.",
    "What does {} do?",
)
SYSTEM = ("You are a helpful assistant.", "You answer questions about Python.", "Be brief.")
GREETING = "Hello! I am a small model that has read the Python documentation. Ask me what a word means."
SMALL_TALK = (
    ("Hello", GREETING),
    ("Hello!", GREETING),
    ("Hi", GREETING),
    ("Hi!", GREETING),
    ("Say hello.", GREETING),
    (
        "Hello, who are you?",
        "I am hello, a very small language model. I write sentences in the style of the Python documentation.",
    ),
    (
        "Who are you?",
        "I am hello, a very small language model. I write sentences in the style of the Python documentation.",
    ),
    ("What can you do?", "I can write a few sentences about Python. They sound right more often than they are right."),
    ("Thank you", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Bye", "Goodbye!"),
)


@dataclass(frozen=True)
class Entry:
    """One name and what the documentation says about it, paragraph by paragraph."""

    name: str
    paragraphs: tuple[str, ...]
    reference: bool
    """From the language reference or a module's own docstring: worth asking about, and never held out."""


def _plain(text: str) -> str:
    """Removes the markup of reStructuredText and the footnote marks, so that what is left reads as a sentence."""
    text = text.translate(str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--"))
    text = re.sub(r":[a-z:]+:`~?([^`]*)`", r"\1", text)
    text = re.sub(r"``?([^`]*)`?[`']", r"\1", text)
    text = re.sub(r"\*\*?([^*\s][^*]*)\*\*?", r"\1", text)
    text = re.sub(r" ?\[\d+\]", "", text)
    return re.sub(r"\s+", " ", text).strip()


def prose(document: str) -> tuple[str, ...]:
    """The paragraphs of a document that are English: no code, grammar, tables, headings or signatures."""
    kept: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(document)):
        if (
            ">>>" in block
            or "::=" in block
            or re.search(r"[=*~+|^-]{4,}", block)
            or block.lstrip().startswith(("@", ":", ".."))
        ):
            continue
        # A sentence that ends in a colon introduces the code that was left out.
        sentences = [s for s in re.split(r"(?<=[.!?:])\s+(?=[A-Z\"])", _plain(block)) if not s.endswith(":")]
        text = " ".join(sentences)
        readable = sum(c.isalpha() or c in " ,." for c in text)
        if (
            text.isascii()
            and len(text.split()) >= 5
            and text[0].isupper()
            and text[-1] in ".!?"
            and readable > 0.92 * len(text)
        ):
            kept.append(text)
    return tuple(kept)


def _heading(text: str) -> str:
    """A section heading as a question names it: 'The "assert" statement' becomes 'the assert statement'."""
    text = _plain(text).replace('"', "")
    return text[0].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _from_topics() -> Iterator[tuple[str, str, bool]]:
    for name, text in topics.items():
        yield name, text, True
        # Every section under a heading is an entry of its own: "The assert statement" and what follows it.
        for match in re.finditer(
            r"^(\S[^\n]*)\n([*=~-])\2{3,}\n(.*?)(?=^\S[^\n]*\n[*=~-]{4,}\n|\Z)", text, re.MULTILINE | re.DOTALL
        ):
            yield _heading(match[1]), match[3], True


def _from_source() -> Iterator[tuple[str, str, bool]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if SKIPPED & set(parts) or any(p.startswith("config-") for p in parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
        module = ".".join(parts).removesuffix(".py").removesuffix(".__init__")
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = module if isinstance(node, ast.Module) else node.name
                yield name, ast.get_docstring(node) or "", isinstance(node, ast.Module)


def _from_compiled() -> Iterator[tuple[str, str, bool]]:
    for module_name in sorted(sys.stdlib_module_names - {"antigravity", "this"}):
        spec = importlib.util.find_spec(module_name)
        if spec is None or (spec.origin or ".py").endswith(".py"):
            continue
        module = importlib.import_module(module_name)
        yield module_name, inspect.getdoc(module) or "", True
        for name, value in sorted(vars(module).items()):
            members = sorted(vars(value).items()) if isinstance(value, type) else []
            yield name, getattr(value, "__doc__", None) or "", module_name == "builtins"
            for member, function in members:
                yield f"{name}.{member}", getattr(function, "__doc__", None) or "", False


def entries() -> list[Entry]:
    """Every documented name whose text holds English, each text once, in a fixed order."""
    seen: set[tuple[str, ...]] = set()
    found: list[Entry] = []
    for source in (_from_topics, _from_compiled, _from_source):
        for name, text, reference in source():
            paragraphs = prose(text) if isinstance(text, str) else ()
            if paragraphs and paragraphs not in seen:
                seen.add(paragraphs)
                found.append(Entry(name, paragraphs, reference))
    return found


def answer(entry: Entry, limit: int) -> str:
    """The first sentences of an entry, as many as fit in `limit` characters, and always at least one."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", " ".join(entry.paragraphs))
    text = sentences[0]
    for sentence in sentences[1:]:
        if len(text) + len(sentence) >= limit:
            break
        text += " " + sentence
    return text


def conversation(asked: list[Entry], rng: random.Random) -> list[dict[str, str]]:
    """The messages of one chat: perhaps a system message, perhaps small talk, then one question per entry."""
    messages: list[dict[str, str]] = []
    if rng.random() < 0.2:
        messages.append({"role": "system", "content": rng.choice(SYSTEM)})
    pairs = [(rng.choice(QUESTIONS).format(e.name), answer(e, 700 if e.reference else 300)) for e in asked]
    if rng.random() < 0.15:
        pairs.insert(0, rng.choice(SMALL_TALK))
    for question, reply in pairs:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return messages
