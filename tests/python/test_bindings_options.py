"""livekv.KVOptions: the command line's cache options, said once in C++; cache specs and lists of them."""

from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
import re

import pytest


def help_options(text: str) -> dict[str, str]:
    """Each option's line of --help, by its flag."""
    return {m[1]: m[0] for m in re.finditer(r"^  (?:-\w+, )?(--[\w-]+).*$", text, re.M)}


def test_flags_defaults_ranges_and_help_are_those_of_the_command_line(livekv, tools):
    text = tools.run("livekv-cli", "--help").stdout
    cache = text[text.index("\nCache:") : text.index("\nSave and restore:")]
    shown = help_options(cache)
    rows = {row.flag: row for row in livekv.kv_options_table()}
    assert set(shown) - {"--ctx-size"} == {*rows, "--preset"}  # the context is the session's
    for flag, row in rows.items():
        default = ("on" if row.default else "off") if isinstance(row.default, bool) else row.default
        default = "" if flag == "--kv-error" else default  # a switch
        facts = "; ".join(filter(None, [row.range, f"default {default}" if default != "" else ""]))
        # A number is printed in its shortest form there: 0, not 0.0.
        facts = re.sub(r"default (\d+)\.0$", r"default \1", facts)
        assert shown[flag].endswith(f" {row.help}" + (f" ({facts})" if facts else "")), flag
        assert re.fullmatch(r"--[a-z-]+", flag) and getattr(livekv.KVOptions(), row.field) == row.default
    assert [row.field for row in livekv.kv_options_table()] == [f.name for f in dataclasses.fields(livekv.KVOptions)]
    assert all(row.field in livekv.KVOptions.__doc__ and row.help in livekv.KVOptions.__doc__ for row in rows.values())


def test_the_type_stub_has_the_tables_fields_and_types(livekv, root):
    stub = ast.parse((root / "bindings" / "livekv" / "options.pyi").read_text())
    declared = next(node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == "KVOptions")
    fields = {n.target.id: ast.unparse(n.annotation) for n in declared.body if isinstance(n, ast.AnnAssign)}
    assert list(fields) == [row.field for row in livekv.kv_options_table()]
    for row in livekv.kv_options_table():
        assert type(row.default).__name__ in fields[row.field].split(" | "), row.field


@pytest.mark.parametrize(
    ("field", "value", "arguments"),
    [
        ("kv_bits", 7, ("--kv-bits", "7")),
        ("kv_bits", (4, 4, 4), ("--kv-bits", "4,4,4")),
        ("kv_bits", "", ("--kv-bits", "")),
        ("chunk_size", 33, ("--chunk-size", "33")),
        ("chunk_size", 0, ("--chunk-size", "0")),
        ("chunk_size", 64.5, ("--chunk-size", "64.5")),
        ("policy", "q5_0", ("--kv", "q5_0")),
        ("outlier_ratio", 0.2, ("--outlier-ratio", "0.2")),
        ("ema_alpha", float("nan"), ("--ema-alpha", "nan")),
        ("rotate", "both", ("--rotate", "both")),
        ("bypass_layers", -1, ("--bypass-layers", "-1")),
        ("sink_tokens", 600, ("--sink-tokens", "600")),
        ("zero_point", "yes", ("--zero-point", "yes")),
    ],
)
def test_what_the_command_line_refuses_raises_the_same_message_with_the_fields_name(livekv, tools, story, field, value, arguments):
    refused = tools.run("livekv-cli", "-m", story, "-p", "x", *arguments, check=False)
    assert refused.returncode == 2
    with pytest.raises(livekv.Error) as raised:
        livekv.KVOptions(**{field: value})
    said = str(raised.value)
    assert refused.stderr in (f"livekv-cli: {said}\n", f"livekv-cli: {said.replace(field, arguments[0], 1)}\n")


def test_values_take_one_form(livekv):
    assert livekv.KVOptions(kv_bits=(4, 3)) == livekv.KVOptions(kv_bits="4,3")
    assert livekv.KVOptions(kv_bits=5).kv_bits == "5"
    assert livekv.KVOptions(clip_factor=2).clip_factor == 2.0
    words = livekv.KVOptions(key_group="chunk", v_outlier_ratio="same", bypass_layers="auto")
    assert (words.key_group, words.v_outlier_ratio, words.bypass_layers) == ("chunk", "same", "auto")
    assert hash(words) == hash(livekv.KVOptions.parse(words.spec))
    assert pickle.loads(pickle.dumps(words)) == words == copy.deepcopy(words)
    with pytest.raises(dataclasses.FrozenInstanceError):
        words.kv_bits = "4"


def test_presets_start_and_changes_follow(livekv):
    assert livekv.KVOptions.preset("default") == livekv.KVOptions()
    assert livekv.KVOptions.preset("small") == livekv.KVOptions(kv_bits=(4, 3))
    reference = livekv.KVOptions.preset("reference", sink_tokens=8)
    assert (reference.scale_method, reference.warmup_keep, reference.sink_tokens) == ("ema_absmax", True, 8)
    with pytest.raises(livekv.Error, match="'tiny' is not one of default, reference, quality, small"):
        livekv.KVOptions.preset("tiny")
    with pytest.raises(livekv.Error, match="there is no cache option 'bits'"):
        livekv.KVOptions.preset("small", bits=4)
    with pytest.raises(livekv.Error, match="there is no cache option 'bits'"):
        livekv.KVOptions().replace(bits=4)


@pytest.mark.parametrize("spec", ["f16", "livekv", "small", "reference", "livekv:kv-bits=4,3:outlier-ratio=0.01",
                                  "quality:seal-decode=off:kv-error", "q8_0:chunk-size=64",
                                  "livekv:bypass-layers=auto:key-group=chunk"])  # fmt: skip
def test_a_spec_says_all_there_is_to_an_option_set(livekv, spec):
    options = livekv.KVOptions.parse(spec)
    assert livekv.KVOptions.parse(options.spec) == options
    assert livekv.KVOptions.parse(options.spec).spec == options.spec


def test_specs_are_what_they_say(livekv):
    parsed = livekv.KVOptions.parse("livekv:kv-bits=4,3:kv-error:zero-point=off")
    assert parsed == livekv.KVOptions(kv_bits=(4, 3), measure_error=True, zero_point=False)
    assert parsed.spec == "livekv:kv-bits=4,3:zero-point=off:kv-error=on"
    assert livekv.KVOptions.parse("livekv:kv-error=off") == livekv.KVOptions()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "'' is neither a policy nor a preset; there are livekv, f16, "),
        ("f32", "'f32' is neither a policy nor a preset"),
        ("livekv:bits=4", "there is no option 'bits'"),
        ("livekv:help", "there is no option 'help'"),
        ("livekv:kv=f16", "there is no option 'kv'"),
        ("livekv:preset=small", "there is no option 'preset'"),
        ("livekv:kv-bits", "kv-bits needs a value"),
        ("livekv:kv-bits=", "--kv-bits: '' is not"),
        ("livekv:kv-bits=4:kv-bits=3", "kv-bits is given twice"),
        ("livekv:kv-error=maybe", "--kv-error: 'maybe' is not one of on, off"),
        ("livekv:chunk-size=33", "--chunk-size: '33' is not a multiple of 32"),
    ],
)
def test_a_bad_spec_is_named_in_the_message(livekv, spec, message):
    with pytest.raises(livekv.Error) as raised:
        livekv.KVOptions.parse(spec)
    assert str(raised.value).startswith(f"cache '{spec}': ") and message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_number_in_a_list_of_caches_continues_the_value_before_it(livekv):
    listed = livekv.parse_kv_list("f16, livekv:kv-bits=4,3,q8_0,livekv:kv-bits=5,4:chunk-size=64,small")
    assert [label for label, _ in listed] == ["f16", "livekv:kv-bits=4,3", "q8_0", "livekv:kv-bits=5,4:chunk-size=64",
                                              "small"]  # fmt: skip
    assert [options for _, options in listed] == [livekv.KVOptions.parse(label) for label, _ in listed]
    for bad, message in [("f16,,q8_0", "an empty place"), ("", "an empty place"), ("f16,3", "'3' is neither"),
                         ("f16,q8_0,f16", "'f16' is listed twice")]:  # fmt: skip
        with pytest.raises(livekv.Error, match=message):
            livekv.parse_kv_list(bad)
