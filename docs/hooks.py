"""Fill the parts of pages that come from the code, so that no setting and no option is typed by hand.

What a line in a page becomes:
    <!-- settings: rerank_plugins.settings.ScorerSettings -->   a table of a settings class
    <!-- other-fields: rerank_plugins.langchain.CrossEncoderRerank -->   the fields its docstring leaves out
    <!-- commands -->   the command line
    <!-- example: langchain_chain -->   a file of `examples/`
    <!-- notebooks -->   what each notebook begins with, and its first plot
A link to a file outside docs/, which works in a checkout, becomes the file's name.
"""

import json
import re
from collections.abc import Callable
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import typer
import typer.cli
from pydantic import SecretStr

ROOT = Path(__file__).parents[1]
OUTWARDS = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)\)")
MARK = re.compile(
    r"^<!-- (settings|other-fields|commands|example|notebooks)(?:: ([\w.]+))? -->$", flags=re.MULTILINE
)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the marks of a page; MkDocs calls this."""
    folder = (ROOT / "docs" / page.file.src_uri).parent
    filled = MARK.sub(lambda mark: FILL[mark[1]](mark[2]), markdown)
    return OUTWARDS.sub(lambda link: _name(link, folder), filled)


def _name(link: re.Match[str], folder: Path) -> str:
    """Return a link to a file beside docs/, which the site does not have, as the file's name."""
    target = (folder / link[2]).resolve()
    if target.is_relative_to(ROOT / "docs") or not target.exists():
        return link[0]
    path = target.relative_to(ROOT).as_posix()
    return f"`{path}`" if path.endswith(link[1].strip("`")) else f"{link[1]} (`{path}`)"


def settings(path: str) -> str:
    """Return a table of a settings class: field, variable, what it takes, default, meaning."""
    cls = _load(path)
    prefix, meanings = cls.model_config["env_prefix"], attributes(cls.__doc__)
    rows = [
        f"| `{name}`<br>`{prefix}{name.upper()}` "
        f"| {_takes(field)}<br>default `{_default(field)}` "
        f"| {meanings[name]} |"
        for name, field in cls.model_fields.items()
    ]
    return "\n".join(["| field, variable | takes | meaning |", "|---|---|---|", *rows])


def other_fields(path: str) -> str:
    """Return the names of a class's fields that its docstring does not describe."""
    cls = _load(path)
    names = sorted(cls.model_fields.keys() - attributes(cls.__doc__).keys())
    return (
        "Its other fields are those of [Settings](settings.md): " + ", ".join(f"`{n}`" for n in names) + "."
    )


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def attributes(docstring: str) -> dict[str, str]:
    """Return what the section Attributes of a Google docstring says of each field."""
    section = re.split(r"^Attributes:$", cleandoc(docstring), flags=re.MULTILINE)[1]
    section = re.split(r"^\S", section, flags=re.MULTILINE)[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("|", "\\|") for name, text in entries}


def _takes(field: Any) -> str:
    return " or ".join(f"`{each}`" for each in _types(field.annotation)) + _bounds(field)


def _types(annotation: Any) -> list[str]:
    """Return the types and values that an annotation allows, in short."""
    inner = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _types(inner[0])
    if get_origin(annotation) is Literal:
        return [json.dumps(value) for value in inner]
    if get_origin(annotation) is tuple:
        return [f"list of {_types(inner[0])[0]}"]
    if get_origin(annotation) is dict:
        return ["mapping"]
    if inner:
        return [each for part in inner for each in _types(part)]
    names = {SecretStr: "str, kept secret", NoneType: "None"}
    return [names.get(annotation, annotation.__name__)]


def _bounds(field: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return "".join(
        f", {sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in signs.items()
        if hasattr(rule, name)
    )


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return json.dumps(value) if isinstance(value, str) else str(value)


def commands(_: str | None) -> str:
    """Return the help of each command, by typer itself."""
    from rerank_plugins.cli.app import app

    group: Any = typer.main.get_command(app)
    with typer.Context(group) as context:
        text = "".join(
            typer.cli.get_docs_for_click(obj=command, ctx=context, indent=1, call_prefix="rerank-plugins")
            for command in group.commands.values()
        )
    return text.replace("* `--help`: Show this message and exit.\n", "")


def example(name: str) -> str:
    """Return an example, whole."""
    return f"```python\n{(ROOT / 'examples' / f'{name}.py').read_text()}```"


def notebooks(_: str | None) -> str:
    """Return title, first words and first plot of each notebook."""
    return "\n\n".join(map(_notebook, sorted((ROOT / "notebooks").glob("*.ipynb"))))


def _notebook(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    title, _, text = "".join(cells[0]["source"]).removeprefix("# ").partition("\n")
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    plot = next(("".join(data["image/png"]).strip() for data in outputs if "image/png" in data), None)
    image = f"\n\n![From this notebook](data:image/png;base64,{plot})" if plot else ""
    return f"## {title}\n\n`notebooks/{path.name}`\n\n{text.strip()}{image}"


FILL: dict[str, Callable[[Any], str]] = {
    "settings": settings,
    "other-fields": other_fields,
    "commands": commands,
    "example": example,
    "notebooks": notebooks,
}
