"""Commands in the documentation: all of them can be typed, and those that are marked are run."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import pytest

from backend.cli import cli
from backend.settings import PREFIX, RETIRED, Settings
from tests.docs.shown import PAGES, ROOT, blocks, commands, inline, settings_named

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
RUN = [page for page in PAGES if any(block.runs for block in blocks(page))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.timeout(900)  # programs are asked for their help, which takes seconds each
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_can_be_typed(page: Path) -> None:
    found = [(words, True) for block in blocks(page) for words in commands(block.text)]
    found += [(words, False) for line in inline(page) for words in commands(line)]
    wrong = {" ".join(words): problem for words, whole in found if (problem := problem_with(words, whole))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("premask predict --out masks", "misses images"),
        ("premask evaluate --data x --cams LayerCAM", "--cams"),
        ("premask evaluate --data x --cam Best", "'Best'"),
        ("premask versions drop", "no command drop"),
        ("make rum", "no target rum"),
        ("make run PORTS=1", "no variable PORTS"),
        ("python -m backend.cvat.labels --models DIR", "--models"),
        ("python -m backend.cvat.label", "no module"),
        ("python -m models.studies.lean_refiner --seed 1 draw --minutes 3", "--minutes"),
        ("A=1 premask phantom --count 3 --out x && premask wroker", "no command wroker"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, complaint: str) -> None:
    problems = [problem for words in commands(line) if (problem := problem_with(words, whole=True))]
    assert len(problems) == 1
    assert complaint in problems[0]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", RUN, ids=name)
def test_marked_blocks_run_in_the_pages_order(page: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if not key.startswith((PREFIX, "LABEL_STUDIO_"))}
    environ = kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PREMASK_PORT": str(port)}
    for block in blocks(page):
        if block.runs:
            done = subprocess.run(
                ["bash", "-euc", block.text],
                cwd=tmp_path,
                env=environ,
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            for written in re.findall(r"--json (\S+)", block.text):
                assert (tmp_path / written).stat().st_size > 2
            for folder in re.findall(r"--out (\S+)", block.text):
                assert any((tmp_path / folder).iterdir())


def test_every_setting_that_is_named_exists() -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields} | set(RETIRED)
    files = [file for file in (ROOT / "docker").rglob("*") if file.suffix in (".yml", ".yaml", ".env")]
    files += [file for file in (ROOT / "tests").rglob("test_*.py") if "soak" in file.read_text(encoding="utf-8")]
    elsewhere = "\n".join(file.read_text(encoding="utf-8") for file in files)  # containers' settings, and the soaks'
    named = {setting: name(page) for page in PAGES for setting in settings_named(page)}
    assert {one: page for one, page in named.items() if one not in known and one not in elsewhere} == {}
    assert len(named) > 15


def problem_with(words: list[str], whole: bool) -> str | None:
    """What is wrong with a command; None if nothing, or if the program is not ours to know.

    Args:
        words: the command.
        whole: whether it is to be typed as it is, with everything that is required.
    """
    program, *rest = words
    if program == "premask":
        return premask_problem(rest, whole)
    if program == "make":
        for word in rest:
            variable = word.partition("=")[0] if "=" in word else None
            if variable and not re.search(rf"^(export )?{variable}\b", MAKEFILE, re.MULTILINE):
                return f"no variable {variable}"
            if not variable and not re.search(rf"^{re.escape(word)}:", MAKEFILE, re.MULTILINE):
                return f"no target {word}"
    if words[:2] == ["python", "-m"]:
        if importlib.util.find_spec(words[2]) is None:
            return f"no module {words[2]}"
        module, rest = (sys.executable, "-m", words[2]), words[3:]
        offered = re.search(r"\{([\w,]+)\} \.\.\.", help_of(module))
        chosen = next((word for word in rest if offered and word in offered[1].split(",")), None)
        if chosen is None:
            return unknown_options(module, rest)
        at = rest.index(chosen)
        return unknown_options(module, rest[:at]) or unknown_options((*module, chosen), rest[at + 1 :])
    if program == "cvat-cli":
        return unknown_options((str(Path(sys.executable).with_name(program)), *rest[:2]), rest[2:])
    return None


def premask_problem(words: list[str], whole: bool) -> str | None:
    command: click.Command = cli
    context = click.Context(cli, info_name="premask")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        child = command.get_command(context, words[0])
        if child is None:
            return f"no command {words[0]}"
        command, context, words = child, click.Context(child, context, words[0]), words[1:]
    if not whole:
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        unknown = [word for word in words if word.startswith("-") and word not in options]
        return f"no option {', '.join(unknown)}" if unknown else None
    try:
        given, _, _ = command.make_parser(context).parse_args(words)
        for parameter in command.params:
            value = given.get(parameter.name)
            missing = value is None or type(value).__name__ == "Sentinel"  # click's mark of an argument left out
            if parameter.required and missing and not parameter.envvar:
                return f"it misses {parameter.name}"
            # Files that are named do not exist here.
            if not missing and not isinstance(parameter.type, click.Path):
                parameter.type_cast_value(context, value)
    except click.UsageError as error:
        return error.format_message()
    return None


def unknown_options(program: tuple[str, ...], words: list[str]) -> str | None:
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    unknown = [option for option in options if not re.search(rf"(?<!\S){option}\b", help_of(program))]
    return f"no option {', '.join(unknown)}" if unknown else None


@cache
def help_of(program: tuple[str, ...]) -> str:
    done = subprocess.run([*program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout
