"""A loader over texts instead of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from deviceplugin.config import ConfigError, Loaded, Problem, load

FILE, CONFIG_JSON = "/etc/agent.yaml", "/etc/config.json"


class Loader:
    """`load` with the texts of its two files."""

    def __call__(
        self,
        file: str | None = None,
        *,
        argv: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        config_json: str | None = None,
    ) -> Loaded:
        files = {FILE: file, CONFIG_JSON: config_json}

        def read(path: str) -> str:
            text = files.get(path)
            if text is None:
                raise FileNotFoundError(path)
            return text

        given = {"NODE_NAME": "node-a", **(env or {})}
        if file is not None:
            given.setdefault("CONFIG_FILE", FILE)
        if config_json is not None:
            given.setdefault("CONFIG_JSON", CONFIG_JSON)
        return load(argv or {}, given, read=read, hostname=lambda: "Host-Name")

    def problems(self, *args: str, **given: object) -> list[Problem]:
        """The problems of a configuration that must be refused."""
        with pytest.raises(ConfigError) as error:
            self(*args, **given)  # type: ignore[arg-type]
        return list(error.value.problems)

    def problem(self, *args: str, **given: object) -> Problem:
        """The only problem."""
        (problem,) = self.problems(*args, **given)
        return problem


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture(scope="session")
def shared_loader() -> Loader:
    """For hypothesis, which does not want a new fixture an example."""
    return Loader()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
