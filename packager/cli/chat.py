"""`packager chat`: talk to a served model, or to a package, in the terminal."""

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import PackagerError, RequestError
from .console import Console, harmless

if TYPE_CHECKING:
    from .talk import Talk

_HOST_AND_PORT = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]+(?:/.*)?")

HELP = """\
/system TEXT   what the model is told before the conversation (nothing: forget it)
/clear         begin the conversation again
/quit          leave (as Ctrl-D does); Ctrl-C ends an answer"""


@dataclass(slots=True)
class Conversation:
    """What was said so far, with whom."""

    talk: "Talk"
    model: str
    system: str
    messages: list[dict[str, str]] = field(default_factory=list)

    def prompt(self) -> list[dict[str, str]]:
        """The messages of the next request."""
        return [{"role": "system", "content": self.system}, *self.messages] if self.system else self.messages


@click.command("chat")
@click.argument("target", metavar="URL|PACKAGE")
@click.option("--prompt", "-p", help="Ask this one thing, print the answer and leave.")
@click.option("--system", default="", help="System prompt.")
@click.option("--model", help="Model or adapter to ask; without it the server's first.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="Without it the model's own.")
@click.option("--top-p", type=click.FloatRange(0, 1), help="Without it the model's own.")
@click.option(
    "--max-tokens", type=click.IntRange(1), help="Tokens of one answer; without it until the context is full."
)
@click.option("--seed", type=click.IntRange(0), help="For the same answer again.")
@click.pass_context
def command(
    ctx: click.Context, /, target: str, *, prompt: str | None, system: str, model: str | None, **sampling: float | None
) -> None:
    """Talk to the model at URL, or serve the package folder PACKAGE and talk to it.

    The answer goes to standard output, its speed to standard error. Ctrl-C ends an answer and frees its slot.
    A server's API key is read from PACKAGER_API_KEY. When standard input is no terminal, each of its lines is
    a message.
    """
    from .api_key import api_key
    from .local_server import served
    from .talk import Talk

    settings = {name: value for name, value in sampling.items() if value is not None}
    console: Console = ctx.obj
    if _HOST_AND_PORT.fullmatch(target) and not Path(target).exists():
        said = f"write http://{target} for a server; there is no folder {target}"
        raise click.BadParameter(said, param_hint="'URL|PACKAGE'")
    with ExitStack() as held:
        url = target if "://" in target else held.enter_context(served(Path(target)))
        talk = held.enter_context(closing(Talk(url, api_key(), settings)))
        conversation = Conversation(talk, model or talk.model(), _checked(system))
        if prompt is not None:
            _turn(conversation, prompt, console)
        else:
            ctx.exit(_converse(conversation, console))


def _converse(conversation: Conversation, console: Console) -> int:
    """Turn after turn; the exit status says whether a question that nobody typed by hand failed."""
    lively = sys.stdin.isatty()
    if lively:
        with suppress(ImportError):
            import readline  # noqa: F401 - its import gives input() a history and keys to edit with
        console.say(f"{conversation.model}: /help for what you can do")
    failed = 0
    for line in _lines(lively):
        if line.startswith("/"):
            if _obey(conversation, line, console):
                break
            continue
        try:
            _turn(conversation, line, console)
        except PackagerError as error:
            console.failure(error)
            failed = 0 if lively else 1
    return failed


def _lines(lively: bool) -> Iterator[str]:  # noqa: FBT001 - the only argument
    while True:
        try:
            line = input("> " if lively else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            what = f"standard input is not text in {error.encoding}"
            raise RequestError(what, mend="convert it first, with iconv for example") from error
        except KeyboardInterrupt:
            if not lively:
                raise
            print(file=sys.stderr)
            continue
        if line:
            yield line


def _obey(conversation: Conversation, line: str, console: Console) -> bool:
    """Do what a line that begins with a slash says; whether to leave."""
    name, _, rest = line.partition(" ")
    if name == "/clear":
        conversation.messages.clear()
    elif name == "/system":
        conversation.system = _checked(rest.strip())
    elif name not in ("/quit", "/exit"):
        console.say(HELP)
    return name in ("/quit", "/exit")


def _turn(conversation: Conversation, text: str, console: Console) -> None:
    """Ask and print. A question that got no text is not kept; an answer that was cut off is."""
    from .talk import Pace

    pace, pieces = Pace(), list[str]()
    conversation.messages.append({"role": "user", "content": _checked(text)})
    try:
        with closing(conversation.talk.answer(conversation.model, conversation.prompt(), pace)) as answer:
            for piece in answer:
                pieces.append(piece)
                sys.stdout.write(harmless(piece))
                sys.stdout.flush()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        pace.finish = "stopped"
    finally:
        if pieces:
            sys.stdout.write("\n")
            sys.stdout.flush()
            conversation.messages.append({"role": "assistant", "content": "".join(pieces)})
        else:
            conversation.messages.pop()
    console.aside(str(pace))


def _checked(text: str) -> str:
    """The text itself; RequestError where the command line or standard input had bytes that are none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            "this is not text in UTF-8", where=repr(text), mend="convert it first, with iconv for example"
        ) from error
    return text
