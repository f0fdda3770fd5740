"""What templates write of values, texts and lists: as Python writes it under jinja2, or refused by name. Nothing else."""

from __future__ import annotations

import pytest

from convert import convert_hf
from test_chat_template import folder_with

# Their conversations have calls, and are given to templates that read none.
pytestmark = pytest.mark.filterwarnings("ignore:the model's chat template does not read")

# Each is written as jinja2 writes it, or one line says what there is none of.
EXPRESSIONS = [
    "{{ '%s'|format(1) }}",
    "{{ '%s-%d'|format('a',3) }}",
    "{{ messages[1] }}",
    "{{ messages[1]|string }}",
    "{{ [1,2] }}",
    "{{ [1,'a'] }}",
    "{{ {'a':1} }}",
    "{{ range(3)|list }}",
    "{{ range(3) }}",
    "{{ none }}",
    "{{ 0.1+0.2 }}",
    "{{ -7%3 }}",
    "{{ 'a'~1~none~true~1.0 }}",
    "{{ undefinedvar.x }}",
    "{{ messages[1].get('nokey') }}",
    "{{ messages[1].keys()|list }}",
    "{{ messages[1].items()|list }}",
    "{{ messages|map(attribute='role')|list }}",
    "{{ messages[1].content|title }}",
    "{{ messages[1].content.split() }}",
    "{{ messages[1].content.split()|join('-') }}",
    "{{ messages[1].content.split('o') }}",
    "{{ messages[1].content.split('o',1) }}",
    "{{ messages[1].content.rsplit('o',1) }}",
    "{{ messages[1].content.title() }}",
    "{{ messages[2].tool_calls[0].function.arguments }}",
    "{{ messages[2].tool_calls[0].function.arguments|items|list }}",
    "{{ tools[0] }}",
    "{{ tools }}",
    "{{ [3,1,2]|sort|list }}",
    "{{ {'b':1,'a':2}|dictsort }}",
    "{{ [1,2]|reverse|list }}",
    "{{ [1,2]+[3] }}",
    "{{ none|default('b') }}",
    "{{ 1.0|string }}",
    "{{ callable is callable }}",
    "{{ (1,2) }}",
    "{{ dict(a=1) }}",
    "{{ cycler }}",
    "{{ lipsum }}",
    "{{ 'é'|length }}",
    "{{ '🙂'|length }}",
    "{{ '🙂a'[1] }}",
    "{{ 'é'|upper }}",
    "{{ 'ß'|upper }}",
    "{{ 'É'|lower }}",
    "{{ 'a,b,,c'.split(',') }}",
    "{{ ''.split(',') }}",
    "{{ ''.split() }}",
    "{{ ' a  b '.split(' ') }}",
    "{{ 'a'+1 }}",
    "{{ 5/0 }}",
    "{{ 'a' is sameas 'a' }}",
    "{{ messages|first }}",
    "{{ self }}",
    "{{ messages.append(1) }}",
    "{{ [1].append(2) }}",
    "{{ {'items':1}.items }}",
    "{{ {'get':3}.get }}",
    "{{ [{'x':1}]|map(attribute='x')|list }}",
    "{{ [1,2,3]|select('odd')|list }}",
    "{{ [1,2,3]|reject('odd')|list }}",
    "{% for m in messages %}{{loop.depth}}{% endfor %}",
    "{% macro f(a) %}{{a}}{{varargs}}{{kwargs}}{% endmacro %}{{f(1,2,x=3)}}",
    "{{bos_token}}{{eos_token}}{{unk_token}}{{pad_token}}",
    "{{ documents }}",
    "{{ 1e20 }}",
    "{{ 7//2 }}",
    "{{ -7//2 }}",
    "{{ 2**3 }}",
    "{{ 2**0.5 }}",
    "{{ 'a'<'b' }}",
    "{{ messages[1]|list }}",
    "{{ messages|selectattr('name','defined')|list|length }}",
    "{{ messages[1].content|replace('o','0',1) }}",
    "{{ messages[1].content|e }}",
    "{{ messages[1].content|escape }}",
    "{{ messages[1].content|wordcount }}",
    "{{ messages[1].content|first }}",
    "{{ messages[1].content|last }}",
    "{{ messages[1].content|list }}",
    "{{ messages[1].content|truncate(5) }}",
    "{{ messages[1].content|center(20) }}",
    "{{ messages[1].content.startswith(('x','He')) }}",
    "{{ messages[1].content.replace('l','L',1) }}",
    "{{ messages[1].content.find('l') }}",
    "{{ messages[1].content.index('l') }}",
    "{{ messages[1].content.count('l') }}",
    "{{ messages[1].content.isdigit() }}",
    "{{ messages[1].content.splitlines() }}",
    "{{ messages[1].content.partition(' ') }}",
    "{{ messages[1].content.rfind('l') }}",
    "{{ messages[1].content.zfill(50) }}",
    "{{ messages[1].content.ljust(50) }}",
    "{{ messages[1].content.join(['a','b']) }}",
    "{{ '{0}{1}{0}'.format('a','b') }}",
    "{{ '{:>5}'.format(3) }}",
    "{{ '{x}'.format(x=1) }}",
    "{{ '%d' % 3 }}",
    "{{ '%s %s' % (1,2) }}",
    "{{ 1e100|tojson }}",
    "{{ 'é</script>\\u2028'|tojson }}",
    "{{ {'b':1,'a':2}|tojson(sort_keys=true) }}",
    "{{ {'b':1,'a':2}|dictsort|list }}",
    "{{ [1,2,3]|sum }}",
    "{{ [1,1,2]|unique|list }}",
    "{{ [1,2,3]|batch(2)|list }}",
    "{{ 'abc'|reverse }}",
    "{{ [none,1]|join('-') }}",
    "{{ 3.456|round(1) }}",
    "{{ 3.5|round }}",
    "{{ (1,) }}",
    "{{ 1,2 }}",
    "{{ joiner(',') }}",
    "{{ '\\x41' }}",
    "{{ '\\u00e9' }}",
    "{{ '🙂'|reverse }}",
    "{{ 'a\\u00a0 '|trim|length }}",
    "{{ '\\u2003a'.strip() }}",
    "{{ [1]*3 }}",
    "{{ 1+true }}",
    "{{ 1<2<3 }}",
    "{{ - 2 ** 2 }}",
    "{{ true + true }}",
    "{{ '%'|e }}",
    "{{ 123456789012345678901234567890 }}",
    "{{ 1_000 }}",
    "{{ 0x10 }}",
    "{{ 1e3 }}",
    "{{ 'a'|list }}",
    "{{ 'ab'|list|join(' ') }}",
    "{{ ['a','b']|join(attribute='x') }}",
    "{{ ['a']|map('upper')|list }}",
    "{{ ['a','b']|map('upper')|join }}",
    "{{ [0,1]|select|list }}",
    "{{ [{'r':'a'},{'r':'b'}]|groupby('r')|list }}",
    "{{ [{'r':'a'}]|groupby('r')|length }}",
    "{{ 'a b c'|wordcount }}",
    "{{ 'a'|urlencode }}",
    "{{ 'a b'|urlencode }}",
    "{{ '<b>x</b>'|striptags }}",
    "{{ 'a'|pprint }}",
    "{{ 'abc'|slice(2)|list }}",
    "{{ [1,2,3]|slice(2)|list }}",
    "{{ 'a'|attr('upper') }}",
    "{{ messages[1]|attr('content') }}",
    "{% for m in messages %}{{loop.cycle('a','b')}}{% endfor %}",
    "{% for m in messages %}{{loop.changed(m.role)}}{% endfor %}",
    "{% for m in messages recursive %}{{m.role}}{% endfor %}",
    "{% for c in 'abc' %}{{c}}{% endfor %}",
    "{% set x|upper %}ab{% endset %}{{x}}",
    "a\\n  {%+ if true %}\\nx{% endif %}",
    "{% raw %}{{x}}{% endraw %}",
    "{% with a=1 %}{{a}}{% endwith %}{{a}}",
    "{% block a %}x{% endblock %}",
    "{% autoescape true %}<b>{% endautoescape %}",
    "{{ {'a':none,'b':true,'c':1.0,'d':1e-7,'e':'\\n'}|tojson }}",
    "{{ messages[1].content[-1] }}{{ messages[1].content[99] }}",
    "{{ 'aéb🙂c'[::-1] }}{{ 'é🙂'[1:] }}{{ 'é🙂'[-1] }}",
    "{{ 'éaé'.strip('é') }}{{ 'xéx'.strip('ü') }}",
    "{{ ' \\n a b '.split(none, 1) }}{{ ' a  b c '.rsplit(none, 1) }}",
    "{{ 'a-b-c'.split('-', 1) }}{{ 'a-b-c'.rsplit('-', 1) }}",
    "{{ 'ab'.replace('', '-') }}{{ 'aaa'|replace('a', 'b', 2) }}",
    "{{ [[1], {'a': [2]}] == [[1], {'a': [2]}] }}{{ (1, 2) == (1, 2) }}",
    "{{ {'B': 1, 'a': 2}|dictsort }}{{ ['b', 'A', 'c']|sort }}{{ ['b', 'A']|max }}{{ ['b', 'A']|min }}",
    "{{ ['B', 'a']|sort(reverse=true) }}{{ [{'k': 2}, {'k': 1}]|sort(attribute='k') }}",
    "{{ tools|tojson(indent=2) }}{{ {'b': 1, 'a': [1.0, 1.5, 123456.789]}|tojson(sort_keys=true) }}",
    "{{ 'é\"x'|tojson(ensure_ascii=true) }}{{ [1, {}]|tojson(separators=(',', ':')) }}",
    "{{ '12'|int + 1 }}{{ ' -3 '|int }}{{ 'x'|int(7) }}{{ '1.5'|float }}{{ '3.7'|int }}",
    "{{ 'a\\nb\\n\\nc'|indent(2) }}{{ 'a\\nb'|indent(2, true) }}{{ 'a\\n\\nb'|indent('> ', blank=true) }}",
    "{{ messages|selectattr('name', 'defined')|map(attribute='role')|list }}{{ messages|rejectattr('content')|list|length }}",
    "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join(' | ') }}",
    "{{ ['a', none, 1, true, 1.5]|join(', ') }}{{ [{'a': {'b': 1}}]|map(attribute='a.b')|list }}",
    "{{ 7 % -3 }}{{ -7 % 3.5 }}{{ 9007199254740993 + 1 }}{{ 3 * 4 - 5 }}{{ 7 / 2 }}{{ 0.1 }}",
    "{{ 0.00001 }}{{ 100000000000000000.0 }}{{ 1234567890123456.0 }}{{ 2.50 }}",
    "{{ ['it\\'s', \"a\\\"b\", 'é', 'a\\\\b', 'x\\ty'] }}",
    "{{ 'Don\\'t (stop) [me]-now'|title }}{{ 'ÀB c'.title() }}{{ 'hELLO wORLD'|capitalize }}",
    "{{ 'ÀÉÖ ñ ж Ω'|lower }}{{ 'àéö ñ ж ω'|upper }}{{ 'straße'|upper }}",
    "{{ x is defined }}{{ none is none }}{{ none|default('b', true) }}{{ x|default('b') }}{{ {}|default('c') }}",
    "{{ 'abc'|list }}{{ 'abc'|first }}{{ 'abc'|last }}{{ 'aé'|reverse }}{{ {'a': 1}|list }}",
    "{{ range(3)|list }}{{ range(1, 7, 2) }}",
    "{{ 'a' < 'b' }}{{ 'é' > 'z' }}{{ 'a' ~ none ~ x ~ [1] }}{{ 'abc'.startswith(('x', 'a')) }}",
    "{{ [1, 2, 3][::-1] }}{{ [1, 2, 3][5:] }}{{ [1, 2, 3][-2:] }}{{ (1, 2, 3)[1:] }}{{ [1, 2, 3][2:-4:-1] }}",
]  # fmt: skip

MESSAGES = [
    {"role": "system", "content": " Sys \u00e9\n "},
    {"role": "user", "content": 'Hello  World\'s "q" <b> a\nb', "name": "N"},
    {
        "role": "assistant",
        "content": "<think>\nhm\n</think>\n\nYes.\r\n",
        "tool_calls": [
            {"id": "x1", "function": {"name": "f", "arguments": {"a": 1, "b": [1.5, None, True], "\u00e9": "\u00fc"}}}
        ],
    },
    {"role": "tool", "content": "42", "tool_call_id": "x1"},
    {"role": "user", "content": "go"},
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "f", "description": "d \u00e9", "parameters": {"required": ["a"], "n": 1.0}},
    }
]


@pytest.fixture(scope="module")
def model_of(livekv, tmp_path_factory):
    """A model whose file has a given template: one file, with that part of it written over."""
    room = 6000
    held = "{#" + "p" * room + " messages #}"
    folder = folder_with(tmp_path_factory.mktemp("python") / "model", held)
    path = folder.with_suffix(".gguf")
    convert_hf.convert(folder, path, "f16")
    whole = path.read_bytes()
    assert whole.count(held.encode()) == 1

    def get(template):
        used = len(template.encode())
        filled = (template + "{#").encode() + b"p" * (len(held) - used - len("{# messages #}")) + b" messages #}"
        copy = folder.parent / f"{hash(template)}.gguf"  # a file that is mapped is not written over
        copy.write_bytes(whole.replace(held.encode(), filled))
        model = livekv.Model(copy, n_threads=1)
        copy.unlink()
        return model

    return get


def by_jinja2(template, messages=MESSAGES):
    """None where it refuses."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    try:
        (text,), _ = utils.render_jinja_template([messages], chat_template=template, tools=TOOLS, bos_token="<s>",
                                                 eos_token="</s>", unk_token="<unk>", add_generation_prompt=True)  # fmt: skip
    except Exception:  # whatever Python raises for it
        return None
    return text


def written(livekv, model, messages=MESSAGES):
    """None where it is refused, in one line without the names of C++."""
    try:
        return model.apply_chat_template(messages, tools=TOOLS)
    except livekv.Error as refusal:
        assert "\n" not in str(refusal) and "St10" not in str(refusal)
        return None


def test_nothing_is_written_otherwise_than_python_writes_it(livekv, model_of):
    wrong = {}
    refused = []
    for expression in EXPRESSIONS:
        try:
            model = model_of(expression)
        except livekv.Error:
            refused.append(expression)
            continue
        ours, theirs = written(livekv, model), by_jinja2(expression)
        if ours is None:
            refused.append(expression)
        elif theirs is None or ours != (theirs.removeprefix("<s>") if model.adds_bos else theirs):
            wrong[expression] = ours, theirs
    assert not {e: w for e, w in wrong.items() if ".append(" not in e}  # lists may be changed here
    assert len(refused) < len(EXPRESSIONS) / 2


# Truth values are numbers to Python.
NUMBERS = "[true, false, 1, 0, 2, -3, 1.0, 0.5]"
VALUES = "[true, false, 1, 0, 2, -3, 1.0, 0.5, none, '', 'a', [1], [true], (1, 2), {'a': 1}, {'a': true}]"
TESTS = {
    VALUES: ["number", "integer", "float", "boolean", "true", "false", "none", "string", "mapping", "sequence", "iterable",
             "defined", "undefined"],
    "[true, false, 1, 0, 2, -3]": ["odd", "even", "divisibleby(2)", "divisibleby(true)"],
}  # fmt: skip


@pytest.mark.parametrize(("values", "test"), [(values, test) for values, tests in TESTS.items() for test in tests])
def test_a_test_answers_as_jinja2s_of_every_value(livekv, model_of, values, test):
    name, _, argument = test.partition("(")
    more = f", {argument.removesuffix(')')}" if argument else ""
    template = (
        f"{{% for v in {values} %}}{{{{ v is {test} }}}} {{{{ v is not {test} }}}},{{% endfor %}}"
        f"{{{{ {values}|select('{name}'{more})|list }}}}{{{{ {values}|reject('{name}'{more})|list }}}}"
        f"{{{{ [{{'k': true}}, {{'k': 2}}]|selectattr('k', '{name}'{more})|list }}}}"
    )
    theirs = by_jinja2(template)
    assert theirs is not None
    assert written(livekv, model_of(template)) == theirs


@pytest.mark.parametrize("test", ["eq", "equalto", "ne", "lt", "lessthan", "gt", "greaterthan", "ge"])
def test_a_comparison_answers_as_jinja2s_of_every_two_values(livekv, model_of, test):
    values = VALUES if test in ("eq", "equalto", "ne") else NUMBERS
    template = (
        f"{{% for v in {values} %}}{{% for w in {values} %}}{{{{ v is {test}(w) }}}},{{% endfor %}}"
        f"{{{{ {values}|select('{test}', v)|list }}}}{{% endfor %}}"
    )
    theirs = by_jinja2(template)
    assert theirs is not None
    assert written(livekv, model_of(template)) == theirs


def test_letters_change_their_case_as_pythons_do_or_not_at_all(livekv, model_of):
    for name, change in (("upper", str.upper), ("lower", str.lower)):
        model = model_of("{{ messages[0].content|" + name + " }}")
        n_done = 0
        for c in map(chr, range(0x80, 0x1E950)):
            if not (c.isalpha() and c != change(c)):
                continue
            ours = written(livekv, model, [{"role": "user", "content": "a" + c + "b"}])
            assert ours in (None, change("a" + c + "b")), hex(ord(c))
            n_done += ours is not None
        assert n_done > 1000


def test_half_a_character_never_reaches_the_model(livekv, model_of):
    for template, content, right in [
        ("{{ messages[0].content[1:] }}", "\u00e9t\u00e9", "t\u00e9"),
        ("{{ messages[0].content[0] }}", "\u00e9t\u00e9", "\u00e9"),
        ("{{ messages[0].content|length }}", "\u00e9t\u00e9", "3"),
        ("{{ messages[0].content[::-1] }}", "\u00e9t\u00e8", "\u00e8t\u00e9"),
        ("{{ messages[0].content.strip('\u00e9') }}", "\u00e9\u00e8\u00e9", "\u00e8"),
        ("{{ messages[0].content.replace('', '-') }}", "\u00e9a", "-\u00e9-a-"),
    ]:
        messages = [{"role": "user", "content": content}]
        model = model_of(template)
        assert model.apply_chat_template(messages) == right
        assert model.detokenize(model.apply_chat_template(messages, tokenize=True)).strip() == right
