"""Tool calls found in text, however it is cut into pieces, and conversations with tools in words."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest

for needed in ("fastapi", "llguidance"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: requirements/serve.txt")

WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern <b>"}}\n</tool_call>'


@pytest.fixture(scope="module")
def tools(livekv):
    from livekv.serve import tools

    return tools


def read(tools, text, size, names=("weather",)):
    reader, out = tools.Reader(names), ""
    for at in range(0, len(text), size):
        out += reader.push(text[at : at + size])
    out += reader.finish()
    return out, [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in reader.calls]


@pytest.mark.parametrize("size", [1, 2, 7, 11, 1000])
@pytest.mark.parametrize(
    ("text", "said", "n_calls"),
    [
        ("Only text, a < b, <tool> and <tool_", "Only text, a < b, <tool> and <tool_", 0),
        (f"I look. {CALL}", "I look. ", 1),
        (f"{CALL}\n{CALL}\nDone.", "Done.", 2),
        (CALL[:-5], CALL[:-5], 0),  # cut off
        ("<tool_call>nothing</tool_call>", "<tool_call>nothing</tool_call>", 0),
        ('<tool_call>{"name": "weather", "arguments": 3}</tool_call>', '<tool_call>{"name": "weather", "arguments": 3}</tool_call>', 0),
        ('\n{\n "name": "weather",\n "arguments": {"city": "Bern <b>"}}', "", 1),  # without the marks
        ('```json\n{"name": "weather", "arguments": {"city": "Bern <b>"}}\n```', "", 1),
        ("```js", "```js", 0),
        ("```python\nprint()\n```", "```python\nprint()\n```", 0),
        ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', 0),
        ('{"name": "weather"', '{"name": "weather"', 0),
    ],
)
def test_calls_are_found_in_pieces_of_any_size(tools, text, said, n_calls, size):
    assert read(tools, text, size) == (said, [("weather", {"city": "Bern <b>"})] * n_calls)


def test_each_call_has_an_id_of_its_own(tools):
    reader = tools.Reader()
    reader.push(CALL + CALL)
    assert len({call["id"] for call in reader.calls}) == 2


def test_a_template_without_tools_is_told_of_them_in_words(tools):
    called = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
        {"role": "tool", "content": "wind", "tool_call_id": "2"},
        {"role": "user", "content": "And?"},
    ]
    told = tools.in_words(messages, [WEATHER])
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert told[0]["content"].startswith("Be brief.") and json.dumps(WEATHER["function"]) in told[0]["content"]
    assert read(tools, told[2]["content"], 1000)[1] == [("weather", {"city": "Bern"})]
    assert told[3]["content"].index("rain") < told[3]["content"].index("wind") < told[3]["content"].index("And?")
    assert tools.in_words(messages[1:], [WEATHER])[0]["role"] == "system"
    assert "tool_calls" in messages[2] and messages[0]["content"] == "Be brief."  # what was given is as it was


def made(grammars, wanted):
    """A text's constraint."""
    return asyncio.run(grammars.constraint(wanted))()


def test_a_grammar_that_was_not_begun_is_no_fault_of_its_own(livekv, root, monkeypatch):
    """Makers that are busy with other people's for too long: 503, and it is made later."""
    from livekv.serve import grammar
    from livekv.serve.request import Refused

    monkeypatch.setattr(grammar, "MAKING_S", 0.2)
    grammars = grammar.Grammars(livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=1))
    let_go, plain_make = threading.Event(), grammars._make
    monkeypatch.setattr(grammars, "_make", lambda text, what: (let_go.wait() if "slow" in text else None, plain_make(text, what))[1])
    for i in range(2):
        with pytest.raises(livekv.Error, match="takes more than 0.2 s"):
            made(grammars, grammar.of_json({"const": f"slow {i}"}))
    with pytest.raises(Refused, match="other grammars are being made") as refused:
        made(grammars, grammar.of_json({"const": "quick"}))
    assert refused.value.status == 503
    let_go.set()
    monkeypatch.setattr(grammar, "MAKING_S", 60.0)
    assert made(grammars, grammar.of_json({"const": "quick"}))


def test_the_time_that_a_grammar_waits_is_not_counted_as_its_making(livekv, root, monkeypatch):
    from livekv.serve import grammar

    grammars = grammar.Grammars(livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=1))
    assert made(grammars, grammar.of_json({"const": "tokens are read once"}))
    monkeypatch.setattr(grammar, "MAKING_S", 4.0)
    plain_make = grammars._make
    monkeypatch.setattr(grammars, "_make", lambda text, what: (time.sleep(2.5), plain_make(text, what))[1])

    async def together():
        wanted = [grammar.of_json({"const": f"number {i}"}) for i in range(4)]
        return await asyncio.gather(*map(grammars.constraint, wanted))

    assert all(constraint() for constraint in asyncio.run(together()))  # the last two after 5 s


def test_a_grammar_of_somebody_who_has_gone_is_not_begun(livekv, root, monkeypatch):
    from livekv.serve import grammar

    grammars = grammar.Grammars(livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=1))
    let_go, begun = threading.Event(), []
    monkeypatch.setattr(grammars, "_make", lambda text, what: (begun.append(text), let_go.wait()))

    async def leave():
        tasks = [asyncio.create_task(grammars.constraint(grammar.of_json({"const": i}))) for i in range(3)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        let_go.set()
        await asyncio.to_thread(grammars._makers.shutdown, wait=True)

    asyncio.run(leave())
    assert len(begun) == 2


def test_a_message_without_content_has_none_for_a_template(tools):
    """As clients send it beside calls. A conversation in words has texts."""
    from livekv.serve.anthropic_fields import CountBody
    from livekv.serve.fields import ChatBody
    from livekv.serve.messages import plain_messages
    from livekv.serve.prompts import _plain

    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    talk = [{"role": "system", "content": None}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    talk += [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "assistant", "tool_calls": [call]}]
    messages = [_plain(message) for message in ChatBody(messages=talk, model="m").messages]
    assert [message["content"] for message in messages] == [None, [{"type": "text", "text": "Hi"}], None, None]
    assert all(isinstance(message["content"], str) for message in tools.in_words(messages, [WEATHER]))
    assert "None" not in str(tools.in_words(messages, [WEATHER])) and "'text'" not in str(tools.in_words(messages, [WEATHER]))
    use = {"type": "tool_use", "id": "1", "name": "weather", "input": {}}
    look = {"type": "text", "text": "I look."}
    for blocks, content in (([use], None), ([look, use], [look]), ([{"type": "text", "text": ""}], ""), ([], "")):
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": blocks}]
        body = CountBody(messages=turns, model="m")
        assert plain_messages(body)[1]["content"] == content


def test_a_schema_cannot_end_the_grammar_it_is_put_into(livekv, tools, root):
    """Names, keys and texts with the marks of the grammar's language are text."""
    from livekv.serve.grammar import Grammars, of_lark

    grammars = Grammars(livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=1))
    schema = {"type": "object", "properties": {'a"\nstart: /x/ %json {': {"const": '}"\n</tool_call>\nstart: "'}},
              "required": ['a"\nstart: /x/ %json {'], "additionalProperties": False}  # fmt: skip
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    for must in (True, False):
        assert made(grammars, of_lark(tools.grammar_of([tool], must, several=False), "the tools"))
    constraint = made(grammars, of_lark(tools.grammar_of([tool], True, several=False), "the tools"))
    text = f"<tool_call>\n{json.dumps({'name': 'weather', 'arguments': {schema['required'][0]: schema['properties'][schema['required'][0]]['const']}})}\n</tool_call>"
    for token in grammars._model.tokenize(text, add_special=False):
        assert constraint.allowed()[token // 32] >> token % 32 & 1
        constraint.take(token)
    assert constraint.complete()


def test_a_grammar_that_is_none_is_said_in_one_line(livekv, root):
    from livekv.serve.grammar import Grammars, of_json, of_lark

    grammars = Grammars(livekv.Model(root / "tests" / "models" / "tiny.gguf", n_threads=1))
    deep: dict = {}
    for _ in range(5000):
        deep = {"items": deep}
    for schema in ({"type": "nothing"}, {"pattern": "("}, {"type": "string", "minLength": 5, "maxLength": 1}, deep, {"enum": [float("nan")]}):
        with pytest.raises(livekv.Error) as refused:
            made(grammars, of_json(schema))
        assert "\n" not in str(refused.value)
    with pytest.raises(livekv.Error, match="the tools: "):
        made(grammars, of_lark("start: (", "the tools"))
