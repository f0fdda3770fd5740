"""What a template's names stand for, how its macros are called, and what comparisons and methods give: as under jinja2."""

from __future__ import annotations

import pytest

from template_programs import Writer
from test_chat_python import MESSAGES, by_jinja2, model_of, written  # noqa: F401 (model_of, models: fixtures)
from test_chat_template import models  # noqa: F401

# Their conversations have calls, and are given to templates that read none.
pytestmark = pytest.mark.filterwarnings("ignore:the model's chat template does not read")

END = "{{ messages|length }}"
ONCE = "{% for m in messages %}{% if not done %}[{{ m.role }}]{% set done = true %}{% else %}{{ m.role }}{% endif %}|{% endfor %}"

SCOPES = [
    "{% set done = false %}" + ONCE,
    ONCE + "{{ done is defined }}",
    "{% for m in messages %}{% if m.role == 'system' %}{% set prefix = 'P:' %}{% endif %}{{ prefix }}{{ m.role }}|{% endfor %}",
    "{% for m in messages %}{% for c in [1, 2] %}{% set y = (y|default(0)) + c %}{{ y }}{% endfor %}/{{ y }}{% endfor %}",
    "{% for m in messages %}{% set m = 'x' %}{{ m }}{% endfor %}{{ m is defined }}",
    "{% for m in [] %}{% else %}{% set q = 1 %}{{ q }}{% endfor %}{{ q is defined }}" + END,
    "{% for x in [1, 2, 3] if x != y %}{% set y = x %}{{ x }}{{ y }}{% endfor %}{{ y is defined }}" + END,
    "{% set z %}{% set q = 3 %}{{ q }}{% endset %}{{ z }}{{ q is defined }}" + END,
    "{% filter upper %}{% set q = 'a' %}{{ q }}{% endfilter %}{{ q is defined }}" + END,
    "{% if true %}{% set q = 3 %}{% endif %}{{ q }}" + END,
    "{% generation %}{% set q = 3 %}{{ q }}{% endgeneration %}{{ q is defined }}" + END,
    "{% macro g() %}{{ m is defined }}{{ loop is defined }}{% endmacro %}{% for m in messages %}{{ g() }}{% endfor %}",
    "{% set x = 1 %}{% macro f() %}{{ x }}{% set x = 5 %}{{ x }}{% endmacro %}{% set x = 2 %}{{ f() }}{{ x }}" + END,
    "{% for m in messages %}{% macro g(s) %}{{ m.role }}{{ s }}{% endmacro %}{{ g(1) }}{% endfor %}{{ g is defined }}",
    "{% macro f() %}({{ caller() }}){% endmacro %}{% for m in messages %}{% call f() %}{{ m.role }}{% endcall %}{% endfor %}",
    "{% for x in range(4) %}a{% if x == 1 %}b{% continue %}{% endif %}c{% if x == 2 %}d{% break %}{% endif %}e{% endfor %}" + END,
    "{% set range = 3 %}{{ range }}{% for dict in [1] %}{{ dict }}{% endfor %}" + END,
    "{% if strftime_now and raise_exception %}y{% endif %}{% macro f() %}{% endmacro %}{{ 'y' if f }}" + END,
    "{% for m in messages %}{{ loop.cycle('a', 'b', 'c') }}{{ loop.previtem.role if loop.index0 }}{{ loop.revindex }}{% endfor %}",
]
MACRO = "{% macro f(a, b=2, c=3) %}{{ a }}{{ b }}{{ c }}{% endmacro %}"
CALLS = [
    *(MACRO + f"{{{{ f({given}) }}}}" + END for given in
      ("1", "1, c=4", "a=1, c=4", "1, c=4, b=7", "1, 2, c=4", "c=4", "", "b=1, a=2", "none", "1, none", "1, b=none", "x")),
    "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3) }}" + END,
    "{% set b = 9 %}{% macro f(a=b, b=1) %}{{ a }}{{ b }}{% endmacro %}{{ f() }}{{ f(b=5) }}" + END,
    "{% set a = 9 %}{% macro f(a) %}{{ a is defined }}{% endmacro %}{{ f() }}{{ f(1) }}" + END,
    "{% macro f() %}{{ caller(1, z=3) }}{% endmacro %}{% call(x, y=2, z=x) f() %}{{ x }}{{ y }}{{ z }}{% endcall %}" + END,
    "{% macro f(n) %}{{ caller() if caller else 'none' }}{{ n }}{% endmacro %}{{ f(1) }}{% call f(n=2) %}x{% endcall %}" + END,
    "{% macro range(n) %}{{ n }}{% endmacro %}{{ range(99999999999) }}" + END,
]  # fmt: skip
REFUSED = [
    MACRO + "{{ f(1, q=2) }}" + END,
    MACRO + "{{ f(1, 2, 3, 4) }}" + END,
    MACRO + "{{ f(1, a=2) }}" + END,
    MACRO + "{% call f(1) %}x{% endcall %}" + END,
    "{% macro f() %}{{ caller(1) }}{% endmacro %}{% call f() %}x{% endcall %}" + END,
    "{% macro f() %}{{ caller(q=1) }}{% endmacro %}{% call(x) f() %}{{ x }}{% endcall %}" + END,
    "{% macro f(a=1, b) %}{{ a }}{% endmacro %}" + END,
    "{% for k, v in {'ab': 1} %}{{ k }}{% endfor %}{% for k, v in {'abc': 1} %}{{ k }}{% endfor %}" + END,
    "{{ 2 ** 3 }}" + END,
    "{{ 7 // 0 }}" + END,
    "{{ '%s' % (1, 2) }}" + END,
    "{{ ','.join([1]) }}" + END,
    "{{ 'a'.index('b') }}" + END,
    "{{ none|list }}" + END,
    "{{ 3|select|list }}" + END,
    "{{ ['a'] in 'abc' }}" + END,
    "{{ nope in 'abc' }}" + END,
    "{{ ['a'] in {'a': 1} }}" + END,
    "{{ 1 in none }}" + END,
    "{{ 'a' is lt 1 }}" + END,
    "{{ 1e19|int }}" + END,
    "{{ (9223372036854775807 * 2.0)|int }}" + END,
    "{{ 9223372036854775807 + 1 }}" + END,
]
VALUES = [
    "2 == 2 == 2", "'a' == 'a' in ['a']", "1 < 2 < 3", "3 > 2 > 2", "1 < 3 > 2 == 2 != 5", "'a' == 'b' not in ['c']", "(1 == 1) == true",
    "true == (1 == 1)", "not 1 == 1 == 1", "[1 == 1, 2 == 2]", "{'a': 1 == 1, 'b': 2 == 2}", "1 == (2 == 2)", "1 is in [1] == true",
    "1 if 1 == 1 else 2 == 2", "dict(a=1==1, b=2==2)", "x == y == z", "'a' > 'b' < 3", "1 == 1 == 1 ~ ''", "'b' not in 'a' == 'a'",
    "7 // 2", "-7 // 2", "7.5 // 2", "-7.5 // -2", "0.0 // -3", "8 // 2 * 3", "'%s' % 'a'", "'%s-%d' % ('a', 3)", "'%s' % [1]",
    "'a%%b%s' % none", "m.content.find('W')", "m.content.rfind('o')", "m.content.find('zz')", "m.content.count('o')",
    "m.content.count('')", "'aéb'.index('b')", "m.content.splitlines()", "'a\\r\\nb\\n'.splitlines()", "''.splitlines()",
    "'a\\n\\n'.splitlines()", "m.content.partition('W')", "m.content.rpartition('o')", "'a'.partition('zz')", "'a'.rpartition('zz')",
    "','.join(['a', 'b'])", "','.join(messages|map(attribute='role'))", "'-'.join('abc')", "'-'.join({'a': 1, 'b': 2})",
    "'abc'.removeprefix('ab')", "'abc'.removesuffix('bc')", "'abc'.removesuffix('')", "3.14159|round(2)", "2.5|round", "3.5|round",
    "none|select|list", "none|reject('odd')|list", "none|selectattr('type', 'equalto', 'x')|list", "none|rejectattr('x')|list",
    "none|map('upper')|list", "none|map(attribute='x')|list", "false|select|list", "0|map('upper')|list", "''|select|list",
    "['string', 'null'] in [['a'], ['string', 'null']]", "['a'] in ['a', 'b']", "(1, 2) in [[1, 2]]", "(1, 2) in [(1, 2)]",
    "{'a': [1]} in [{'a': [1]}]", "['a'] not in [['a']]", "m.nope in ['a']", "m.nope not in ('a', 'b')", "m.nope in {'a': 1}",
    "m.nope in [m.none]", "m.nope in nope", "['a'] in nope", "(1, 2) in {(1, 2): 3}", "none in [none]", "true in [1]", "1.0 in range(3)",
    "messages[2] in messages", "messages[2] not in messages", "{'role': 'user'} in messages", "messages[2] is in messages",
    "messages|select('in', [messages[2]])|list|length", "[[1], 2, none]|select('in', [[1], none])|list", "[1] in [[true]]", "x in [x]",
    "3 if false else -5 % 3", "1 if -1 < 0 and -2 else +2", "-1 in [-1] and not -1 in [1]", "-0.4|round", "3|round", "3|round(1)", "3.7|round(0, 'floor')", "3.21|round(1, 'ceil')", "3|round(0, 'ceil')",
]  # fmt: skip


@pytest.mark.parametrize("template", SCOPES + CALLS + ["{% set m = messages[1] %}{{ " + e + " }}" for e in VALUES])
def test_a_template_writes_what_jinja2_writes(livekv, model_of, template):
    theirs = by_jinja2(template)
    assert theirs is not None
    assert written(livekv, model_of(template)) == theirs


@pytest.mark.parametrize("template", REFUSED)
def test_what_jinja2_refuses_or_is_not_done_is_refused(livekv, model_of, template):
    with pytest.raises(livekv.Error):
        model_of(template).apply_chat_template(MESSAGES)


def test_the_last_line_break_is_no_text_whatever_it_is(livekv, models):
    for end in ("\n", "\r", "\r\n"):
        model, _ = models("{{ messages|length }}\ra" + end)
        assert model.apply_chat_template(MESSAGES) == "5\na"


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_random_programs_write_what_jinja2_writes(livekv, model_of, seed):
    """Or fail, where that fails. To look further, more seeds."""
    writer = Writer(seed)
    n_written = 0
    for _ in range(60):
        template = writer.program()
        theirs = by_jinja2(template)
        assert written(livekv, model_of(template)) == theirs, template
        n_written += theirs is not None
    assert n_written > 25


WHOLE = [0, 1, -1, 7, 2**53, 2**53 + 1, -(2**53) - 1, 12345678901234567, 12345678901234569, 2**62 + 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, 0.5, -7.25, 2.0**53, 12345678901234568.0, 2.0**62, 2.0**63, -(2.0**63), 1e19, -1e300]
NUMBERS_OF_TWO = ["a < b", "a <= b", "a > b", "a >= b", "a == b", "a != b", "a in [b]", "[a, b]|sort", "[a, b]|max", "[a, b]|min",
                  "a is lt b", "a is le(b)", "a is gt b", "a is ge(b)", "a is eq b", "[a]|select('lt', b)|list", "[a] == [b]"]  # fmt: skip


@pytest.mark.parametrize("expression", NUMBERS_OF_TWO)
def test_whole_numbers_beyond_2_53_compare_and_sort_as_pythons(livekv, model_of, expression):
    messages = [{"role": "user", "content": "", "n": WHOLE + FLOATS}]
    template = "{% for a in messages[0].n %}{% for b in messages[0].n %}{{ " + expression + " }};{% endfor %}|{% endfor %}"
    assert (theirs := by_jinja2(template, messages)) is not None
    assert written(livekv, model_of(template), messages) == theirs


@pytest.mark.parametrize("operation", ["a + b", "a - b", "a * b", "a / b", "a // b", "a % b"])
def test_whole_numbers_beyond_2_53_count_as_pythons_or_are_refused(livekv, model_of, operation):
    """Where Python's would pass 64 bits, and only there, they are refused."""
    model = model_of("{{ " + operation.replace("a", "messages[0].a").replace("b", "messages[0].b") + " }}")
    for a in WHOLE + FLOATS:
        for b in WHOLE + FLOATS:
            try:
                right = str(eval(operation, {"a": a, "b": b}))
            except ZeroDivisionError:
                right = None
            if right and "." not in right and "e" not in right and "inf" not in right and not -(2**63) <= int(right) < 2**63:
                right = None
            assert written(livekv, model, [{"role": "user", "content": "", "a": a, "b": b}]) == right, (a, b)
