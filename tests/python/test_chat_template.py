"""Chat templates of a file: as jinja2 and transformers run them, and what Python may call a message."""

from __future__ import annotations

import datetime
import json

import pytest

import tiny_models
from chat_templates import CONVERSATIONS, TEMPLATES
from convert import convert_hf
from tiny_models import SHAPES

# Their conversations have calls, and are given to templates that read none.
pytestmark = pytest.mark.filterwarnings("ignore:the model's chat template does not read")


def folder_with(folder, template, tokenizer="hd8"):
    tiny_models.make(folder, SHAPES[tokenizer])
    settings = folder / "tokenizer_config.json"
    config = json.loads(settings.read_text())
    config["chat_template"] = template
    settings.write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def models(livekv, tmp_path_factory):
    """A model whose file has a template, and its Hugging Face folder."""
    known = {}

    def get(template, tokenizer="hd8"):
        if (template, tokenizer) not in known:
            folder = folder_with(tmp_path_factory.mktemp("chat") / "model", template, tokenizer)
            convert_hf.convert(folder, folder.with_suffix(".gguf"), "f16")
            known[template, tokenizer] = livekv.Model(folder.with_suffix(".gguf"), n_threads=1), folder
        return known[template, tokenizer]

    return get


def rendered(model, template, messages, add_generation_prompt):
    """By jinja2, as transformers sets it up; the exception's text where the template refuses."""
    jinja2 = pytest.importorskip("jinja2")
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    text = environment.from_string(template).render(messages=messages, add_generation_prompt=add_generation_prompt,
                                                    tools=None, documents=None, bos_token="<s>", eos_token="</s>")  # fmt: skip
    return text.removeprefix("<s>") if model.adds_bos else text


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_template_writes_what_jinja2_writes(livekv, models, name, conversation, add_generation_prompt):
    jinja2 = pytest.importorskip("jinja2")
    model, _ = models(TEMPLATES[name])
    messages = CONVERSATIONS[conversation]
    assert model.has_chat_template
    try:
        right = rendered(model, TEMPLATES[name], messages, add_generation_prompt)
    except jinja2.exceptions.TemplateError as refusal:
        with pytest.raises(livekv.Error) as raised:
            model.apply_chat_template(messages, add_generation_prompt)
        assert str(raised.value) == f"the model's chat template: {refusal}"
        return
    assert model.apply_chat_template(messages, add_generation_prompt) == right


@pytest.mark.parametrize("opening", ["a", "a ", "\n", "\na", " ", " \t", " \n ", "ab\n  ", "<", "{ ", "é"])
def test_what_a_template_begins_with_stays(models, opening):
    """White space before a first line's block goes, as before any other line's; all else is written."""
    for block in ("{% if true %}Q{% endif %}", "{# c #}Q", "{%- if true %}Q{% endif %}", "{{ 'Q' }}", "{{- 'Q' }}"):
        template = opening + block + "{{ messages|length }}"
        model, _ = models(template)
        messages = CONVERSATIONS["question"]
        assert model.apply_chat_template(messages) == rendered(model, template, messages, True), template


CALLED = {"role": "assistant", "content": "c", "tool_calls": [{"function": {"name": "f", "arguments": {"q": [1]}}}]}
EXPRESSIONS = [
    *(f"{v} | {name} | list" for v in ("none", "0", "''", "messages[0].nope", "false") for name in
      ("select('string')", "reject('string')", "selectattr('a')", "rejectattr('a')", "map('upper')", "map(attribute='a')")),
    "['string', 'null'] in ['a', 'b']", "['a', 'b'] in [['a', 'b'], 1]", "('a', 'b') in [['a', 'b']]", "[] not in [[]]",
    "{'a': 1} in [{'a': 1}]", "messages[0].nope in ['a']", "messages[0].nope not in ['a']", "messages[0].nope in {'a': 1}",
    "messages[0] in messages", "messages[0] in messages[1:]", "messages[1].tool_calls in [[], messages[1].tool_calls]",
    "none in [none]", "1.0 in [1]", "'a' in ('a', 'b')", "'a' in 'cab'", "'a' in {'a': 1}",
    *(e.replace("A", "12345678901234567").replace("B", "12345678901234569") for e in
      ("A / 2", "A / B", "A < B", "B < A", "A <= A", "A == B", "A > 5.5", "A < 1.5", "[B, A] | sort", "[A, B] | max",
       "[A] | select('lt', B) | list", "A is gt B", "A is lt B", "A in [B]", "A == 12345678901234568.0", "A | float",
       "-A", "A | abs", "A | int", "A % 10", "A // 10", "A + 0.5", "A * 1.0", "A is ge(B)")),
    "7 / 2", "1 / 3", "(+2)", "[-3, +4]", "-9223372036854775807", "0.1 + 0.2", "7 % -3", "-7 // 2.0", "1 < 1.5", "2 >= 2.0", "1 == 1.0",
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_what_jinja2_makes_of_it(models, expression):
    template = "{{ " + expression + " }}{{ messages | length }}"
    messages = [{"role": "user", "content": "a"}, CALLED]
    assert models(template)[0].apply_chat_template(messages) == rendered(models(template)[0], template, messages, True)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("messages[0].x | int", "it makes an integer beyond 64 bits"),
        ("'1e19' | int", "the filter int is given '1e19', which is no plain number"),
        ("'99999999999999999999' | int", "the filter int is given '99999999999999999999', which is no plain number"),
        ("100000000000000000000", "it has the number 100000000000000000000, which 64 bits do not hold"),
    ],
)
def test_whole_numbers_beyond_64_bits_are_refused(livekv, models, expression, message):
    model, _ = models("{{ " + expression + " }}{{ messages | length }}")
    with pytest.raises(livekv.Error, match=message):
        model.apply_chat_template([{"role": "user", "content": "a", "x": 1e19}])


@pytest.mark.parametrize("named", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("more", [{}, {"thinking": "T", "reasoning": "R"}, {"reasoning_content": None}, {"thinking": ""}])
def test_reasoning_has_the_names_that_transformers_gives_it(models, named, more):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    if not hasattr(utils, "_alias_reasoning_fields"):
        pytest.skip("this transformers gives reasoning no other names")
    template = "{% for m in messages %}[{{ m.thinking }}|{{ m.reasoning_content }}|{{ m.reasoning }}]{% endfor %}"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", named: "WHY"} | more]
    right = rendered(models(template)[0], template, utils._alias_reasoning_fields(messages), True)
    assert models(template)[0].apply_chat_template(messages) == right


@pytest.mark.parametrize("name", ["dates", "inst_last", "renamed", "inst_sys"])
def test_tokens_are_transformers_tokens(models, name):
    transformers = pytest.importorskip("transformers")
    model, folder = models(TEMPLATES[name], "gqa_hd64")
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    for messages in (CONVERSATIONS["question"], CONVERSATIONS["of_jinja"]):
        right = reference.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert model.apply_chat_template(messages, tokenize=True) == right


def test_a_message_is_text_all_the_way(models):
    """Control tokens are the template's: those in a message are text, in every family and however they are spelled."""
    for template in TEMPLATES.values():
        model, _ = models(template)
        for content in ("a</s>b", "</s>", "<s></s>", "</s></s>x<s>"):
            said = model.apply_chat_template([{"role": "user", "content": content}], tokenize=True)
            harmless = model.apply_chat_template([{"role": "user", "content": "x"}], tokenize=True)
            for control in (model.bos_token, model.eos_token):
                assert said.count(control) == harmless.count(control)
            assert content in model.detokenize(said, skip_special=False)


def test_any_role_that_the_template_writes_is_taken(livekv, models):
    """transformers takes every role, and drops a message without a word where the template has no place for it."""
    template = (
        "{% for m in messages %}{% if m.role == 'tool_results' %}[R]{{ m.content|length }}[/R]"
        "{% elif m.role|length != 6 %}<|{{ m.role }}|>{{ m.content|trim }}{% endif %}{% endfor %}"
    )
    model, _ = models(template)
    conversation = [
        {"role": "document", "content": " d\n"},
        {"role": "", "content": [{"type": "text", "text": "a "}]},
        {"role": "<s>", "content": "u"},
        {"role": "tool_results", "content": "r"},
    ]
    assert model.apply_chat_template(conversation) == "<|document|>d<||>a<|<s>|>u[R]1[/R]"
    said = model.apply_chat_template(conversation, tokenize=True)
    assert model.bos_token not in said[1:]
    for content in (" dropped", [{"type": "text", "text": ""}, {"type": "text", "text": "dropped"}]):
        with pytest.raises(livekv.Error, match="the role 'wizard' is not supported: the model's chat template does not"):
            model.apply_chat_template([*conversation, {"role": "wizard", "content": content}])


def test_what_a_template_does_not_read_is_warned_of(livekv, models):
    """transformers drops tools, calls and variables that a template has no place for without a word."""
    plain, _ = models("{% for m in messages %}{{ m.content }}{% endfor %}")
    reads, _ = models("{% for m in messages %}{{ m['tool_calls'] or m.content }}{% endfor %}{{ tools }}{{ enable_thinking }}")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
    user = {"role": "user", "content": "a"}
    for given, messages, ignored in [
        ({"tools": [tool]}, [user], "tools"),
        ({"tools": [tool], "documents": [{"text": "d"}], "enable_thinking": False}, [user], "tools, documents, enable_thinking"),
        ({}, [user, call], "tool_calls"),
    ]:
        for tokenize in (False, True):
            with pytest.warns(UserWarning, match=f"the model's chat template does not read {ignored}$"):
                plain.apply_chat_template(messages, tokenize=tokenize, **given)
    assert plain.apply_chat_template([user, {**call, "tool_calls": []}], tools=[], documents=None) == "a"
    assert "enable" not in reads.apply_chat_template([user, call], tools=[tool], enable_thinking=True)


def test_what_a_message_may_be(livekv, models):
    model, _ = models("{% for m in messages %}[{{ m.role }}{{ m.name }}]{{ m.content }}{% endfor %}")
    assert model.apply_chat_template([{"role": "user", "content": None}]) == "[user]"
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    assert model.apply_chat_template([{"role": "user", "content": parts}]) == "[user]a b"
    assert model.apply_chat_template(({"role": "user", "content": "a", "name": "Al"},)) == "[userAl]a"
    assert model.apply_chat_template([{"role": "tool", "content": "", "n": [1, 2.5, True, None, {"a": "b"}]}]) == "[tool]"
    for message, part in [
        ({"role": "user", "content": b"a"}, "the content of message 0 is bytes"),
        ({"role": "user", "content": 5}, "the content of message 0 is int"),
        ({"role": "user", "content": {"text": "a"}}, "the content of message 0 is dict"),
        ({"role": "user", "content": [{"type": "image", "url": "x"}]}, "a part of message 0"),
        ({"role": "user", "content": ["a"]}, "a part of message 0"),
        ({"role": "user", "content": "\ud800"}, "message 0 cannot be given to a template"),
        ({"role": "user", "content": "a", "name": b"x"}, "message 0 cannot be given to a template"),
        ({"role": "user", "content": "a", True: 1}, "message 0 cannot be given to a template: a key is bool, not text"),
        ({"role": None, "content": "a"}, "the role of message 0 is NoneType"),
        ({"role": "user"}, "message 0 is not a mapping with role and content"),
        ("hello", "message 0 is not a mapping"),
    ]:
        for tokenize in (False, True):
            with pytest.raises(livekv.Error, match=part) as raised:
                model.apply_chat_template([message], tokenize=tokenize)
            assert "\n" not in str(raised.value)
