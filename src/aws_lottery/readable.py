"""Configurations that print as they would be typed, a field a line."""

from dataclasses import fields
from typing import Any


class Readable:
    """For dataclasses: `str` is the Python that makes the object, `repr` stays the same in one line."""

    def __str__(self: Any) -> str:
        lines = [f"    {field.name}={getattr(self, field.name)!r},\n" for field in fields(self)]
        return f"{type(self).__name__}(\n{''.join(lines)})"
