"""Files that a person names: read whole and bounded, or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deviceplugin.api.problems import why

__all__ = ["UserFileError", "read_file", "read_yaml", "remedy", "unusable"]

MOST_YAML = 64 << 20
"""Bytes; a manifest of 10,000 pods is 10 MB."""


class UserFileError(ValueError):
    """A file that cannot be used; the text names it, says why, and what to do."""


def read_file(path: Path, most: int) -> bytes:
    """What is in a file. Raises `UserFileError`, also where there are more than `most` bytes in it:
    a device or a pipe may go on for ever.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise UserFileError(unusable(path, error)) from None
    if len(data) > most:
        raise UserFileError(f"{path}: larger than {most:,} bytes; give a smaller file")
    return data


def unusable(path: Path, error: Exception, do: str = "read") -> str:
    """Why a file cannot be read, or what else there was to `do`, and the remedy."""
    return f"{path}: cannot be {do}: {why(error)}; {remedy(error)}"


def remedy(error: Exception) -> str:
    """What to do about a file that cannot be used."""
    match error:
        case FileNotFoundError():
            return "correct the path, or create what is missing"
        case IsADirectoryError():
            return "name a file in it"
        case PermissionError():
            return "give this user the right to it"
        case _:
            return "correct the path"


def read_yaml(path: Path) -> list[Any]:
    """The documents of a file of YAML or JSON. Raises `UserFileError`."""
    import yaml

    data = read_file(path, MOST_YAML)
    try:
        return list(yaml.safe_load_all(data.decode("utf-8-sig")))
    except RecursionError:
        raise UserFileError(f"{path}: nested too deeply; remove the nesting") from None
    except (yaml.YAMLError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserFileError(f"{path}: not YAML: {text}; correct the syntax") from None
