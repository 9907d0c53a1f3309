"""What the site's pages take from the code, so that they cannot drift: an mkdocs hook.

A line such as `<!-- reference: settings -->` is replaced by the function of that name below. CONTRIBUTING.md,
CHANGELOG.md and SECURITY.md stay where people look for them, beside the README, and become pages as they are.
"""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
FROM_ROOT = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
MARKER = re.compile(r"^<!-- reference: (\w+) -->$", re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that lie beside the README."""
    for name in FROM_ROOT:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what the page asks for."""
    return MARKER.sub(lambda found: "\n".join(PARTS[found[1]]()), markdown)


def settings() -> Iterator[str]:
    """A table of every setting: its variable, default, meaning and what may be written."""
    from backend.settings import EXPECTED, PREFIX, Settings
    from models.starter import STARTER

    meanings = dict(re.findall(r"^    (\w+): (.+)$", inspect.getdoc(Settings) or "", re.MULTILINE))
    yield "| variable | default | meaning, and what it may be |"
    yield "|---|---|---|"
    variables = {
        name: name.upper() if name.startswith("label_studio") else PREFIX + name.upper()
        for name in Settings.model_fields
    }
    for name, known in Settings.model_fields.items():
        meaning = re.sub(r"`(\w+)`", lambda found: f"`{variables.get(found[1], found[1])}`", meanings[name])
        default = "`light`" if known.default == STARTER else _code(known.default)
        yield f"| `{variables[name]}` | {default} | {_sentence(meaning)}.<br>*{_cell(EXPECTED[name])}* |"


def commands() -> Iterator[str]:
    """Every command of `premask` with its arguments and options."""
    from backend.cli import cli

    yield from _command(cli, click.Context(cli, info_name="premask"))


def http() -> Iterator[str]:
    """Every route of the server and every object it takes or gives, from its OpenAPI description."""
    from backend.web.openapi import document

    described = document()
    yield described["info"]["description"]
    operations_in_all = [
        one for path in described["paths"].values() for key, one in path.items() if key != "parameters"
    ]
    statuses = Counter(status for operation in operations_in_all for status in operation["responses"])
    usual = {status for status, count in statuses.items() if status >= "4" and 2 * count > len(operations_in_all)}
    yield f"Any route may answer {', '.join(f'`{status}`' for status in sorted(usual))}:\n\n| answer | |\n|---|---|"
    for status in sorted(usual):
        given = next(one["responses"][status] for one in operations_in_all if status in one["responses"])
        yield f"| `{status}` | {_cell(_resolved(given, described)['description'])} |"
    for tag in described["tags"]:
        yield f"\n## {tag['name'].replace('-', ' ').title()}\n\n{tag['description']}\n"
        for path, operations in described["paths"].items():
            shared = operations.get("parameters", [])
            for method, operation in operations.items():
                if method != "parameters" and operation["tags"][0] == tag["name"]:
                    yield from _operation(f"{method.upper()} {path}", operation, shared, usual, described)
    yield "\n## Objects\n"
    for name, schema in described["components"]["schemas"].items():
        yield f"\n### {name} {{#object-{name.lower()}}}\n\n{schema.get('description', '')}\n"
        yield from _fields(schema, described)


PARTS: Mapping[str, Callable[[], Iterator[str]]] = {"settings": settings, "commands": commands, "http": http}


def _command(command: click.Command, context: click.Context, level: int = 2) -> Iterator[str]:
    if context.parent is not None:
        yield f"\n{'#' * level} {context.command_path}\n"
        yield _help(command) + "\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {usage}\n```\n"
    # click's own words for each option: type, default, variable, whether it is required.
    records = [record for one in command.params if (record := one.get_help_record(context))]  # all but --help
    if records:
        yield "| option | |\n|---|---|"
        yield from (f"| `{_cell(name)}` | {_cell(text)} |" for name, text in records)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _command(child, click.Context(child, context, name), level + (context.parent is not None))


def _help(command: click.Command) -> str:
    return re.sub(r"[ \n]*\n\n[ \n]*", "\n\n", (command.help or "").strip())


def _operation(
    title: str, operation: Mapping[str, Any], shared: list[Any], usual: Set[str], described: Mapping[str, Any]
) -> Iterator[str]:
    yield f"\n### `{title}`\n"
    yield from (f"{operation[key].strip()}\n" for key in ("summary", "description") if operation.get(key))
    parameters = [_resolved(one, described) for one in [*shared, *operation.get("parameters", [])]]
    if parameters:
        yield "| parameter | type | |\n|---|---|---|"
    for one in parameters:
        kind = _type(one.get("schema", {}), described)
        yield f"| `{one['name']}` (in {one['in']}) | {kind} | {_cell(one.get('description', ''))} |"
    for media, content in _resolved(operation.get("requestBody", {}), described).get("content", {}).items():
        yield f"\nBody, `{media}`: {_type(content['schema'], described)}\n"
        yield from _fields(content["schema"], described)
    yield "\n| answer | |\n|---|---|"
    for status in sorted(operation["responses"].keys() - usual):
        given = _resolved(operation["responses"][status], described)
        kinds = " or ".join(
            f"{media}, {_type(content['schema'], described)}" if "schema" in content else media
            for media, content in given.get("content", {}).items()
        )
        yield f"| `{status}` | {_cell(given.get('description', ''))}{f' ({kinds})' if kinds and status < '4' else ''} |"


def _fields(schema: Mapping[str, Any], described: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema or not schema.get("properties"):
        return
    yield "| field | type | |\n|---|---|---|"
    for name, known in schema["properties"].items():
        optional = "" if name in schema.get("required", []) else ", optional"
        yield f"| `{name}` | {_type(known, described)}{optional} | {_cell(known.get('description', ''))} |"


def _resolved(node: Any, described: Mapping[str, Any]) -> Any:
    while isinstance(node, Mapping) and "$ref" in node:
        target: Any = described
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def _type(schema: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return (
            f"[{name}](#object-{name.lower()})"
            if "/schemas/" in schema["$ref"]
            else _type(_resolved(schema, described), described)
        )
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one, described) for one in schema[key]))
    kind = schema.get("type", "any")
    kind = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return f"list of {_type(schema['items'], described)}" if kind == "array" and schema.get("items") else kind


def _code(value: Any) -> str:
    if value is None or value == ():
        return "–"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _sentence(text: str) -> str:
    text = _cell(text).removesuffix(".")
    return re.sub(r"(?<!\S)(/\w+)", r"`\1`", text[:1].upper() + text[1:])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
