"""Result folders as the commands leave them, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EvalError
from ..files import read_json
from ..record_fields import Fields
from ..run_folder import read_records

SUFFIXES = (".json", ".jsonl", ".npz")  # of the files that reports are made of
COMMANDS = ("perplexity", "ablation", "tune", "cache_profile", "longbench", "longbench-e", "longbench-v2")


@dataclass(frozen=True)
class Results:
    """The folder of one run."""

    path: Path
    command: str  # of COMMANDS
    config: Mapping[str, Any]
    versions: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Command and model."""
        return f"{self.command.replace('_', ' ')}: {self.config['model']['file']}"

    @property
    def about(self) -> str:
        """What was measured, in one line."""
        facts = [f"windows of {self.config['n_ctx']} tokens" if "texts" in self.config else ""]
        facts += [f"{name} ({text['windows']})" for name, text in self.config.get("texts", {}).items()]
        facts += [f"base {self.config['base']}" if "base" in self.config else ""]
        commit = self.versions.get("commit")
        facts += [f"livekv {self.versions.get('livekv')}", f"commit {commit[:12]}" if commit else ""]
        return ", ".join(fact for fact in facts if fact)

    def json(self, name: str) -> Any:
        """A JSON file of the folder."""
        return read_json(self.path / name)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table of the folder."""
        content = self.json(name)
        if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
            raise EvalError(f"{self.path / name}: not a table")
        rows: list[dict[str, Any]] = content["rows"]
        return rows

    def records(self, name: str, fields: Fields) -> list[dict[str, Any]]:
        """The finished records of a .jsonl file, as read_records gives them."""
        path = self.path / f"{name}.jsonl"
        if not path.is_file():
            raise EvalError(f"{path}: no such file")
        return read_records(path, fields)


def read_results(path: Path) -> Results:
    """The folder of a run; EvalError where it is none or of another kind."""
    if not path.is_dir():
        raise EvalError(f"{path}: no such folder")
    if not (path / "config.json").is_file():
        raise EvalError(f"{path}: no config.json, so not the folder of a run")
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise EvalError(f"{path / 'config.json'}: not a JSON object")
    command = config.get("command", config.get("benchmark"))
    if command not in COMMANDS:
        raise EvalError(f"{path}: results of '{command}', which reports do not know; known: {', '.join(COMMANDS)}")
    _check_config(path / "config.json", config)
    versions = read_json(path / "versions.json")
    if not isinstance(versions, dict) or not isinstance(versions.get("commit"), str | None):
        raise EvalError(f"{path / 'versions.json'}: not what a run writes")
    return Results(path, command, config, versions)


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    """EvalError where what every report says of a run is missing or of another kind."""

    def require(name: str, holds: bool) -> None:
        if not holds:
            raise EvalError(f"{path}: its '{name}' is not what a run writes")

    model, texts = config.get("model"), config.get("texts", {})
    require("model", isinstance(model, dict) and isinstance(model.get("file"), str))
    listed = texts.values() if isinstance(texts, dict) else [texts]
    require("texts", all(isinstance(one, dict) and "windows" in one for one in listed))
    require("n_ctx", "n_ctx" in config or "texts" not in config)


def text_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table as text: numbers short, a {mean, se} as mean ± se."""
    names = list(columns or dict.fromkeys(key for row in rows for key in row))
    return names, [[_cell(row.get(name)) for name in names] for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        mean = f"{value['mean']:+.4g}"
        return mean if value["se"] is None else f"{mean} ± {value['se']:.2g}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
