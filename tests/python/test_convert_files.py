"""A name in a folder that cannot be read is an error: the model of the other files would be another."""

from __future__ import annotations

import os
import shutil

import pytest
import tiny_models
from convert_error import ConvertError
from test_convert import convert
from tiny_models import SHAPES

OPTIONAL = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "model.safetensors.index.json",
    "additional_chat_templates/tool_use.jinja",
)
NEEDED = ("config.json", "model.safetensors", "model-00001-of-00002.safetensors")


def dangling(path):
    path.symlink_to("blobs/none")


def closed(path):
    path.write_text("{}")
    path.chmod(0)


def loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", OPTIONAL + NEEDED)
@pytest.mark.parametrize(
    "make, message",
    [
        (dangling, "is a link to blobs/none, which does not exist"),
        (loop, "cannot be read: Too many levels of symbolic links"),
        (lambda path: path.mkdir(), "is a folder"),
        (os.mkfifo, "is no file"),
        (closed, "cannot be read: Permission denied"),
    ],
    ids=["dangling", "loop", "folder", "pipe", "closed"],
)
def test_what_is_there_and_cannot_be_read_is_named(tmp_path, name, make, message):
    if make is closed and os.geteuid() == 0:
        pytest.skip("nothing is closed to root")
    folder = tiny_models.make(tmp_path / "m", SHAPES["gqa_hd64"])
    path = folder / name
    if name.startswith("additional"):
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    if name == "model-00001-of-00002.safetensors":
        tiny_models.save_shards(folder, tiny_models.weights(SHAPES["gqa_hd64"]), 2)
        (folder / "model.safetensors").unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(ConvertError) as refused:
        convert(folder)
    assert str(path) in str(refused.value) and message in str(refused.value)


@pytest.mark.parametrize(
    "make, message",
    [(dangling, "is a link to blobs/none"), (os.mkfifo, "is no folder"), (lambda path: path.touch(), "is no folder")],
)
def test_a_folder_of_templates_that_is_none_is_named(tmp_path, make, message):
    folder = tiny_models.make(tmp_path / "m", SHAPES["gqa_hd64"])
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    make(folder / "additional_chat_templates")
    with pytest.raises(ConvertError, match=f"additional_chat_templates {message}"):
        convert(folder)


def test_links_to_files_are_followed(tmp_path):
    """As in a snapshot of Hugging Face's cache."""
    plain = tiny_models.make(tmp_path / "a" / "m", SHAPES["gqa_hd64"])
    linked = tmp_path / "b" / "m"
    shutil.copytree(plain, linked)
    (tmp_path / "blobs").mkdir()
    for i, path in enumerate(sorted(linked.iterdir())):
        path.rename(tmp_path / "blobs" / str(i))
        path.symlink_to(tmp_path / "blobs" / str(i))
    convert(plain)
    convert(linked)
    assert plain.with_suffix(".gguf").read_bytes() == linked.with_suffix(".gguf").read_bytes()
