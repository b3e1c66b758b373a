"""`DocumentTemplate`: which text of a document is scored, from its content and its metadata."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, NamedTuple, Self

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import shorten

__all__ = ["DocumentTemplate", "RenderedDocument"]


class RenderedDocument(NamedTuple):
    """The text that is scored.

    Attributes:
        text: The text.
        content_start: Where the document's content begins in it, in characters.
    """

    text: str
    content_start: int


@dataclass(frozen=True)
class _Part:
    """Literal text, and after it the content, a metadata field, or nothing."""

    literal: str = ""
    field: str | None = None
    spec: str = ""
    is_content: bool = False


# A line of a template, without its newline.
_Line = tuple[_Part, ...]


class DocumentTemplate:
    r"""A text made of a document's content and named metadata fields.

    Fields are metadata keys in braces, `{content}` is the document's content; `{{` and `}}` are braces. A
    line whose metadata fields are all missing, None or "" is left out; the line with the content always
    stays. A field may have a format spec, as in `{year:04d}`; attributes, indices and conversions are
    refused.

    Args:
        template: The template, with `{content}` exactly once.

    Raises:
        InvalidInputError: If the template cannot be used.

    Examples:
        >>> from rerank_plugins import DocumentTemplate
        >>> template = DocumentTemplate("{title}\n{content}")
        >>> template.render("Goethe wrote it.", {"title": "Faust"}).text
        'Faust\nGoethe wrote it.'
        >>> template.render("Goethe wrote it.", {}).text
        'Goethe wrote it.'
    """

    def __init__(self, template: str) -> None:
        if not isinstance(template, str):
            msg = f"a document template must be a str, but got {type(template).__name__}: {shorten(template)}"
            raise InvalidInputError(msg)
        self._lines: tuple[_Line, ...] = tuple(tuple(_parse(line, template)) for line in template.split("\n"))
        self._separator = "\n"
        self._keep_empty = False
        count = sum(part.is_content for line in self._lines for part in line)
        if count != 1:
            msg = (
                f"a document template must hold {{content}} exactly once, but {template!r} holds it {count}x"
            )
            raise InvalidInputError(msg)

    @classmethod
    def of_fields(cls, names: Sequence[str], separator: str = "\n") -> Self:
        """Put metadata fields before the content, as Haystack's `meta_fields_to_embed` does.

        Args:
            names: Metadata keys of any spelling. Missing ones and None are left out, "" is kept.
            separator: Between the fields, and between them and the content.

        Examples:
            >>> from rerank_plugins import DocumentTemplate
            >>> template = DocumentTemplate.of_fields(["title"], separator=": ")
            >>> template.render("Goethe wrote it.", {"title": "Faust"}).text
            'Faust: Goethe wrote it.'
        """
        made = cls("{content}")
        made._lines = (*((_Part(field=name),) for name in names), *made._lines)
        made._separator = separator
        made._keep_empty = True
        return made

    def render(self, content: str, metadata: Mapping[str, Any]) -> RenderedDocument:
        """Return the text to score.

        Args:
            content: The document's own text.
            metadata: Its metadata; a key called "content" is not reached.

        Raises:
            InvalidInputError: If a value does not take the format spec of its field.
        """
        text, content_start = "", 0
        separator = ""
        for line in self._lines:
            if self._is_left_out(line, metadata):
                continue
            text += separator
            separator = self._separator
            for part in line:
                text += part.literal
                if part.is_content:
                    content_start = len(text)
                    text += content
                elif part.field is not None:
                    text += self._show(metadata.get(part.field), part)
        return RenderedDocument(text, content_start)

    def _is_left_out(self, line: _Line, metadata: Mapping[str, Any]) -> bool:
        fields = [part.field for part in line if part.field is not None]
        if not fields or any(part.is_content for part in line):
            return False
        return all(self._is_absent(metadata.get(field)) for field in fields)

    def _is_absent(self, value: Any) -> bool:
        return value is None or (not self._keep_empty and isinstance(value, str) and not value)

    def _show(self, value: Any, part: _Part) -> str:
        if self._is_absent(value):
            return ""
        try:
            return format(value, part.spec) if part.spec else str(value)
        except (ValueError, TypeError, OverflowError) as error:
            msg = f"metadata {part.field!r} must take the format {part.spec!r}, but {shorten(value)}: {error}"
            raise InvalidInputError(msg) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DocumentTemplate) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((self._lines, self._separator, self._keep_empty))

    def __repr__(self) -> str:
        return f"DocumentTemplate({self._separator.join(map(_show, self._lines))!r})"


def _parse(line: str, template: str) -> Iterator[_Part]:
    """Yield the parts of a line.

    Raises:
        InvalidInputError: If it is no format string of plain names.
    """
    try:
        parsed = list(Formatter().parse(line))
    except ValueError as error:
        msg = f"a document template must have its braces in pairs within a line, but {template!r}: {error}"
        raise InvalidInputError(msg) from error
    for literal, field, spec, conversion in parsed:
        if field is None:
            yield _Part(literal)
            continue
        is_content = field == "content"
        plain = field.strip() and not field.isdecimal() and not set(field) & set(".[]{}")
        if not plain or conversion or "{" in (spec or "") or (is_content and spec):
            msg = (
                f"fields of a document template must be plain names of metadata such as {{title}}, or "
                f"{{content}} without a format, but {template!r} has {_show_field(field, spec, conversion)}"
            )
            raise InvalidInputError(msg)
        yield _Part(literal, None if is_content else field, spec or "", is_content)


def _show_field(field: str, spec: str | None, conversion: str | None) -> str:
    return f"{{{field}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"


def _show(line: _Line) -> str:
    shown = ""
    for part in line:
        shown += part.literal.replace("{", "{{").replace("}", "}}")
        if part.is_content or part.field is not None:
            shown += _show_field(part.field or "content", part.spec, None)
    return shown
