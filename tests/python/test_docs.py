"""What the documents tell a reader to type is there: options, targets, files, and where links lead."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "tests").glob("*/README.md")),
             ROOT / "engine" / "kernels" / "README.md"]


def blocks(document) -> str:
    """The indented lines, a command that goes on over several as one line, without prompts and comments."""
    lines = re.findall(r"^    (?:\$ )?(.*)$", re.sub(r"\\\n +", "", document.read_text()), re.M)
    return "\n".join(re.sub(r"\s#.*", "", line) for line in lines)


def flags_of_commands() -> dict[str, set[str]]:
    """The options that documents give to each tool, script and module of ours, by what starts it."""
    used: dict[str, set[str]] = {}
    for document in DOCUMENTS:
        for line in blocks(document).splitlines():
            if found := re.match(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?(livekv-\w+|python -m [\w.]+|python [\w/]+\.py) (.*)", line):
                words = shlex.split(found[2])
                flags = {word.split("=")[0] for word in words if re.fullmatch(r"--?[a-zA-Z].*", word)}
                used.setdefault(found[1].removeprefix("python "), set()).update(flags)
    return used


COMMANDS = flags_of_commands()


def help_of(tools, command: str) -> str:
    if command.startswith("livekv-"):
        return tools.run(command, "--help").stdout
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # The harness's own command line, which takes `run` for granted.
    asked = [sys.executable, *command.split(), *(["run"] if command.endswith(".lm_eval") else []), "--help"]
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    if "No module named" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_in(flag: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text) is not None


def test_every_tool_has_a_command_in_the_documents(root):
    tools = set(re.findall(r"^livekv_tool\(([\w-]+)", (root / "engine" / "CMakeLists.txt").read_text(), re.M))
    modules = {f"-m python_eval.{path.parent.name}" for path in (root / "python_eval").glob("*/__main__.py")}
    assert len(tools) == 3 and len(modules) > 4 and tools | modules <= COMMANDS.keys()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_options_of_commands_in_the_documents_are_the_tools(livekv, tools, command):
    text = help_of(tools, command)
    assert [flag for flag in sorted(COMMANDS[command]) if not is_in(flag, text)] == []


def test_the_options_the_tools_page_speaks_of_are_the_tools(tools, root):
    page = (root / "docs" / "command-line.md").read_text()
    text = help_of(tools, "livekv-cli")
    sections = page[page.index("## livekv-cli") : page.index("## livekv-bench")]
    flags = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", " ".join(re.findall(r"`([^`\n]+)`", sections))))
    assert len(flags) > 35 and [flag for flag in sorted(flags - {"--help"}) if not is_in(flag, text)] == []


def test_the_readme_is_short_and_leads_to_every_page(root):
    """A page is linked from the README or from a page that is."""
    assert len((root / "README.md").read_text().splitlines()) <= 150
    known, queue = set(), [root / "README.md"]
    while queue:
        page = queue.pop()
        known.add(page)
        links = re.findall(r"\]\(([^)#]+\.md)[^)]*\)", page.read_text())
        queue += {(page.parent / link).resolve() for link in links if "://" not in link} - known
    assert set((root / "docs").glob("*.md")) <= known


def test_make_targets_are_in_the_makefile(root):
    targets = set(re.findall(r"^(\w+):", (root / "Makefile").read_text(), re.M))
    for document in DOCUMENTS:
        named = set(re.findall(r"^make (\w+)", blocks(document), re.M)) | set(re.findall(r"`make (\w+)", document.read_text()))
        assert named <= targets, document


def test_files_and_links_lead_somewhere(root):
    places = [root, root / "engine", root / "bindings" / "livekv", root / "bindings", root / "tests"]
    for document in DOCUMENTS:
        text = document.read_text()
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert link.startswith("https://") or (document.parent / link).exists(), (document.name, link)
        for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:h|cuh|cu|cpp|py|pyi|md|sh|txt|npz|gguf))`", text):
            assert any((place / name).exists() for place in places), (document.name, name)
