"""Downloads from the Hugging Face hub into its own cache, where they resume; one clear line if it is out of reach."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .errors import EvalError
from .files import write_text

Answer = TypeVar("Answer")

LONGBENCH = "zai-org/LongBench"  # formerly THUDM/LongBench: data.zip, one JSONL file a task
LONGBENCH_V2 = "zai-org/LongBench-v2"  # data.json, a list
WIKITEXT = "Salesforce/wikitext"


def longbench_folder() -> Path:
    """A folder with LongBench v1 and -E as <task>.jsonl and <task>_e.jsonl, beside the hub's cached archive."""
    archive = Path(download_file(LONGBENCH, "data.zip")).resolve()
    folder = archive.parent / f"{archive.name}.unpacked"
    with zipfile.ZipFile(archive) as packed:
        for member in packed.namelist():
            target = folder / Path(member).name
            if target.suffix == ".jsonl" and not member.startswith("__MACOSX") and not target.is_file():
                write_text(target, packed.read(member).decode("utf-8"))
    return folder


def longbench_v2_file() -> Path:
    """LongBench v2 as JSONL, beside the hub's cached file."""
    source = Path(download_file(LONGBENCH_V2, "data.json")).resolve()
    target = source.parent / f"{source.name}.jsonl"
    if not target.is_file():
        rows = json.loads(source.read_bytes())
        write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return target


def wikitext_splits() -> dict[str, str]:
    """wikitext-2-raw, each split as one text: `test`, `validation`, `train`."""
    import datasets  # type: ignore[import-untyped]

    loaded = ask(lambda: datasets.load_dataset(WIKITEXT, "wikitext-2-raw-v1"), WIKITEXT)
    return {split: "".join(loaded[split]["text"]) for split in ("test", "validation", "train")}


def download_file(repository: str, name: str) -> str:
    """The path of one file of a data set in the hub's cache."""
    import huggingface_hub

    return ask(lambda: huggingface_hub.hf_hub_download(repository, name, repo_type="dataset"), f"{repository}/{name}")


def download_checkpoint(repository: str) -> str:
    """The folder of a model in the hub's cache: configuration, tokenizer and weights, safetensors before .bin."""
    import huggingface_hub

    patterns = ["*.json", "*.model", "*.txt", "*.jinja", "*.safetensors"]
    files = ask(lambda: huggingface_hub.list_repo_files(repository), repository)
    if not any(name.endswith(".safetensors") for name in files):
        patterns[-1] = "*.bin"
    return ask(lambda: huggingface_hub.snapshot_download(repository, allow_patterns=patterns), repository)


def ask(request: Callable[[], Answer], what: str) -> Answer:
    """The request's answer; EvalError where the hub cannot be reached or does not give it."""
    from huggingface_hub import errors

    refused = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError)
    try:
        return request()
    except Exception as problem:
        line = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        # An entry that is missing locally is what a hub out of reach looks like.
        if isinstance(problem, refused) and not isinstance(problem, errors.LocalEntryNotFoundError):
            raise EvalError(f"{what}: the hub does not give it: {line}") from None
        raise EvalError(
            f"{what}: cannot be had from the Hugging Face hub: {line} Name local files, or run the same command where "
            "there is a network: downloads go on where they stopped"
        ) from None
