"""What the README and the documentation show: blocks of commands, commands within a sentence, names of settings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")))
# A block of shell commands; after the comment it is really run.
BLOCK = re.compile(r"^(<!-- run -->\n)?```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:premask|make|python -m) [^`]+)`(?!`)")
ENDS = ("&", "&&", ";", "|")


@dataclass(frozen=True)
class Block:
    """A block of shell commands.

    Attributes:
        text: the commands.
        runs: it is marked to be run.
    """

    text: str
    runs: bool


def blocks(page: Path) -> list[Block]:
    """The blocks of a page."""
    return [Block(text, bool(mark)) for mark, text in BLOCK.findall(page.read_text(encoding="utf-8"))]


def commands(text: str) -> Iterator[list[str]]:
    """The commands in a text, each as words, without variables set before it and without redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ENDS:
                words.append(word)
                continue
            redirected = next((i for i, one in enumerate(words) if one in (">", ">>", "<")), len(words))
            words = words[:redirected]
            while words and re.match(r"\w+=", words[0]):
                words = words[1:]
            if words:
                yield words
            words = []


def inline(page: Path) -> list[str]:
    """Commands within the sentences of a page."""
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(command.split()) for command in INLINE.findall(prose)]


def settings_named(page: Path) -> set[str]:
    """Names of settings on a page."""
    return set(re.findall(r"\bPREMASK_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8")))
