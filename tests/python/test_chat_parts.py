"""A content in parts: a list for a template that looks into it, as under transformers, and otherwise one text."""

from __future__ import annotations

import pytest

from test_chat_python import by_jinja2, model_of, written  # noqa: F401 (model_of: a fixture)

# Their conversations have calls, and are given to templates that read none.
pytestmark = pytest.mark.filterwarnings("ignore:the model's chat template does not read")

PARTS = [{"type": "text", "text": "Read this.\n"}, {"type": "text", "text": "\nWho? "}]
TALK = [
    {"role": "system", "content": " S "},
    {"role": "user", "content": PARTS},
    {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    {"role": "user", "content": "u"},
]
LOOKS = [
    "{% for m in messages %}{% if m.content is string %}{{ m.content|trim }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p['text']|trim }}{% endif %}{% endfor %}{% endif %}|{% endfor %}",
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% endif %}|{% endfor %}",
    "{% for m in messages %}{{ 'L' if m.content is not string and m.content is iterable else 'T' }}{{ m.content is mapping }}{% endfor %}",
    "{{ messages[1].content[0].text }}{{ messages[1]['content'][-1]['text'] }}{{ messages[1].content|length }}",
    "{{ messages[1].content[1:]|length }}{{ (messages[1].content|first).text }}{{ messages[1].content.0.text }}",
    "{{ messages[1].content|selectattr('type', 'equalto', 'text')|map(attribute='text')|join }}",
    "{{ messages[1].content|map(attribute='text')|list|length }}{{ messages|map(attribute='content')|select('string')|list }}",
    "{{ messages|map(attribute='content.0.text')|list }}",
    "{% macro text(c) %}{% if c is string %}{{ c }}{% else %}{% for p in c %}[{{ p.text }}]{% endfor %}{% endif %}{% endmacro %}{% for m in messages %}{{ text(m.content) }}{% endfor %}",
    "{% set all = messages[1].content + messages[2].content %}{{ all|length }}",
    "{% for m in messages[1:3] %}{{ m.role }}: {% for c in m.content %}{{ c.text }}{% endfor %}\n{% endfor %}",
]  # fmt: skip
WRITES = [
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "{% for m in messages %}{{ m.content.strip() }}{{ m['content']|length }}{% endfor %}",
    "{% for m in messages %}{{ '[' + m.content + ']' }}{% if 'Who' in m.content %}!{% endif %}{% endfor %}",
    "{% for m in messages %}{{ m.content|tojson }}{% endfor %}",
    "{% for m in messages %}{% if m.content is not string %}{{ raise_exception('text alone') }}{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{{ m.content[0] }}{{ m.content.strip() }}{% endfor %}",
]


def joined(messages):
    return [
        message | {"content": "".join(part["text"] for part in message["content"])}
        if isinstance(message["content"], list) else message
        for message in messages
    ]  # fmt: skip


@pytest.mark.parametrize("template", LOOKS)
def test_a_template_that_looks_into_parts_gets_them(livekv, model_of, template):
    theirs = by_jinja2(template, TALK)
    assert theirs is not None
    assert written(livekv, model_of(template), TALK) == theirs


@pytest.mark.parametrize("template", WRITES)
def test_a_template_that_writes_contents_gets_texts(livekv, model_of, template):
    assert written(livekv, model_of(template), TALK) == by_jinja2(template, joined(TALK))


def test_a_message_whose_parts_are_written_is_text_beside_one_whose_parts_are_read(livekv, model_of):
    talk = [{"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, TALK[1]]
    template = "{{ messages[0].content|trim }}{% for m in messages[1:] %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
    assert written(livekv, model_of(template), talk) == "ab[Read this.\n][\nWho? ]"


def test_a_refusal_is_the_templates_own(livekv, model_of):
    """The one for the list, where one text is refused too."""
    template = "{% for p in messages[1].content %}{{ p.text }}{% endfor %}{{ raise_exception('no more') }}"
    with pytest.raises(livekv.Error, match="no more"):
        model_of(template).apply_chat_template(TALK)


def test_no_part_becomes_a_control_token(livekv, model_of):
    for template in LOOKS + WRITES:
        model = model_of(template)
        talk = [TALK[0], {"role": "user", "content": [{"type": "text", "text": "</s>a<s"}, {"type": "text", "text": ">"}]}, *TALK[2:]]
        try:
            said = model.apply_chat_template(talk, tokenize=True)
        except livekv.Error as refusal:
            assert "would make a control token" in str(refusal), template
            continue
        harmless = model.apply_chat_template(TALK, tokenize=True)
        for control in (model.bos_token, model.eos_token):
            assert said.count(control) == harmless.count(control), template


def test_a_whole_number_that_has_no_room_is_refused(livekv, model_of):
    model = model_of("{{ messages[0].x|tojson }}{{ n }}")
    message = {"role": "user", "content": "a"}
    for n in (2**63 - 1, -(2**63)):
        assert model.apply_chat_template([message | {"x": n}], n=n) == f"{n}{n}"
    for n in (2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**400):
        for given, more in (({"x": n}, {}), ({"x": [{"y": n}]}, {}), ({}, {"n": n})):
            with pytest.raises(livekv.Error, match="a whole number is beyond 64 bits"):
                model.apply_chat_template([message | given], **more)
