"""livekv.KVOptions: the command line's cache options, said once in C++; cache specs and lists of them."""

from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
import re

import numpy as np
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
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
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
        assert type(row.default).__name__ in fields[row.field].partition("[")[0].split(" | "), row.field


@pytest.mark.parametrize(
    ("field", "value", "arguments", "why"),
    [
        ("kv_bits", 7, ("--kv-bits", "7"), "7 is not one or two of 2, 3, 4, 5 and 8"),
        ("kv_bits", (4, 4, 4), ("--kv-bits", "4,4,4"), "(4, 4, 4) is not one or two of"),
        ("kv_bits", (4, "3"), ("--kv-bits", "4,x"), "(4, '3') is not one or two of"),
        ("kv_bits", (), ("--kv-bits", ""), "() is not one or two of"),
        ("kv_bits", "", ("--kv-bits", ""), "'' is not one or two of"),
        ("chunk_size", 33, ("--chunk-size", "33"), "33 is not a multiple of 32 in 32..4096"),
        ("chunk_size", 0, ("--chunk-size", "0"), "0 is not a multiple of 32 in 32..4096"),
        ("chunk_size", 64.5, ("--chunk-size", "64.5"), "64.5 is not a whole number in 32..4096"),
        ("chunk_size", 2**64 + 64, ("--chunk-size", str(2**64 + 64)), "is not a whole number in 32..4096"),
        ("policy", "q5_0", ("--kv", "q5_0"), "'q5_0' is not one of livekv, kvstream, guided, kivi, fastkv, finch, kvquant, f16, "),
        ("outlier_ratio", 0.2, ("--outlier-ratio", "0.2"), "0.2 is not in 0..0.1"),
        ("v_outlier_ratio", "x", ("--v-outlier-ratio", "x"), "'x' is not same or a number in 0..0.1"),
        ("v_outlier_ratio", -1.0, ("--v-outlier-ratio", "-1"), "-1.0 is not same or a number in 0..0.1"),
        ("ema_alpha", float("nan"), ("--ema-alpha", "nan"), "nan is not in 1e-06..1"),
        ("rotate", "both", ("--rotate", "both"), "'both' is not one of none, k, v, kv"),
        ("bypass_layers", -1, ("--bypass-layers", "-1"), "-1 is not auto or a whole number in 0..100000"),
        ("sink_tokens", 600, ("--sink-tokens", "600"), "600 is more than the chunk size, 512"),
        ("key_alloc", "first", ("--key-alloc", "first"), "'first' is not one of off, block, auto"),
        ("key_quarters", 4, ("--key-quarters", "4"), "4 is not in 0..3"),
        ("only_layer", -1, ("--only-layer", "-1"), "-1 is not all or a whole number in 0..100000"),
        ("zero_point", "yes", ("--zero-point", "yes"), "'yes' is not one of True, False"),
    ],
)
def test_what_the_command_line_refuses_of_a_flag_is_refused_of_its_field(livekv, tools, story, field, value, arguments, why):
    refused = tools.run("livekv-cli", "-m", story, "-p", "x", *arguments, check=False)
    assert refused.returncode == 2 and refused.stderr.startswith(f"livekv-cli: {arguments[0]}: ")
    with pytest.raises(livekv.Error) as raised:
        livekv.KVOptions(**{field: value})
    assert str(raised.value).startswith(f"{field}: ") and why in str(raised.value)
    for change in (livekv.KVOptions().replace, lambda **changes: livekv.KVOptions.preset("small", **changes)):
        with pytest.raises(livekv.Error, match=f"^{field}: "):
            change(**{field: value})


NOT_OF_TYPE = {
    int: ["64", "on", "", None, True, 64.0, float("nan"), [64], 2**70, np.zeros(3), np.float64(64), object()],
    float: ["0.01", "", None, False, [0.01], 1j, np.ones(2), object()],
    str: [None, 1, True, 0.5, "", "LIVEKV", ["k"], b"k", object()],
    bool: [None, 0, 1, "on", "off", "True", 0.0, np.zeros(2)],
    tuple: [None, 8, 4.0, True, "", "8", (8,), (8, 4), (8, 4, 2, 2), (8, "4", 2), (8, None, 2), {8: 4}, np.zeros(3), object()],
}


def test_every_field_takes_values_of_its_type_alone(livekv):
    for row in livekv.kv_options_table():
        kind = int if row.field == "only_layer" else type(row.default)  # whose default is a word for none
        for value in NOT_OF_TYPE[kind]:
            if row.field == "calibration" and isinstance(value, str):
                continue  # any text is a path
            with pytest.raises(livekv.Error) as raised:
                livekv.KVOptions(**{row.field: value})
            said = str(raised.value)
            assert said.startswith(f"{row.field}: ") and "\n" not in said and len(said) < 200, (row.field, value)


def test_numbers_of_numpy_are_numbers(livekv):
    taken = livekv.KVOptions(chunk_size=np.int64(64), ema_alpha=np.float64(0.25), clip_factor=np.float32(2), kv_bits=np.int8(3))
    assert taken == livekv.KVOptions(chunk_size=64, ema_alpha=0.25, clip_factor=2, kv_bits=3)
    assert all(type(getattr(taken, row.field)) is type(row.default) for row in livekv.kv_options_table())


def test_values_take_one_form(livekv):
    forms = [livekv.KVOptions(kv_bits=bits) for bits in ((4, 3), [4, 3], "4,3")]
    assert forms[0] == forms[1] == forms[2] and forms[0].kv_bits == (4, 3)
    assert [livekv.KVOptions(kv_bits=bits).kv_bits for bits in (5, (5,), (5, 5), "5")] == [5, 5, 5, 5]
    assert repr(livekv.KVOptions(clip_factor=2).clip_factor) == "2.0"
    words = livekv.KVOptions(key_group="chunk", v_outlier_ratio="same", bypass_layers="auto")
    assert (words.key_group, words.v_outlier_ratio, words.bypass_layers) == ("chunk", "same", "auto")
    assert hash(words) == hash(livekv.KVOptions.parse(words.spec))
    assert pickle.loads(pickle.dumps(words)) == words == copy.deepcopy(words)
    with pytest.raises(dataclasses.FrozenInstanceError):
        words.kv_bits = 4


def test_a_session_has_the_options_it_was_given(livekv, model, tmp_path):
    options = livekv.KVOptions(kv_bits=(5, 3), key_group="chunk", chunk_size=32, rotate="kv", ema_alpha=1 / 3, measure_error=True)
    assert livekv.KVOptions._of(model.session(64, kv=options)._core.kv()) == options
    session = model.session(64, kv=options)
    session.prefill([1] * 40)
    session.save(tmp_path / "a.kv")
    loaded = model.session(64, kv=livekv.KVOptions(measure_error=True))
    loaded.load(tmp_path / "a.kv")
    assert loaded.kv == options


def test_presets_start_and_changes_follow(livekv):
    assert livekv.KVOptions.preset("default") == livekv.KVOptions()
    assert livekv.KVOptions.preset("small") == livekv.KVOptions(kv_bits=3)
    assert livekv.KVOptions.preset("tiny") == livekv.KVOptions(kv_bits=2, key_quarters=1, key_group=256)
    reference = livekv.KVOptions.preset("reference", sink_tokens=8)
    assert (reference.scale_method, reference.warmup_keep, reference.sink_tokens) == ("ema_absmax", True, 8)
    with pytest.raises(livekv.Error, match="'huge' is not one of default, reference, quality, small, tiny"):
        livekv.KVOptions.preset("huge")
    with pytest.raises(livekv.Error, match="there is no cache option 'bits'"):
        livekv.KVOptions.preset("small", bits=4)
    with pytest.raises(livekv.Error, match="there is no cache option 'bits'"):
        livekv.KVOptions().replace(bits=4)


@pytest.mark.parametrize("spec", ["f16", "livekv", "small", "reference", "livekv:kv-bits=4,3:outlier-ratio=0.01",
                                  "quality:seal-decode=off:kv-error", "q8_0:chunk-size=64",
                                  "livekv:bypass-layers=auto:key-group=chunk", "kivi:kv_bits=2:residual=64"])  # fmt: skip
def test_a_spec_says_all_there_is_to_an_option_set(livekv, spec):
    options = livekv.KVOptions.parse(spec)
    assert livekv.KVOptions.parse(options.spec) == options
    assert livekv.KVOptions.parse(options.spec).spec == options.spec


def test_specs_are_what_they_say(livekv):
    parsed = livekv.KVOptions.parse("livekv:kv-bits=4,3:kv-error:zero-point=off")
    assert parsed == livekv.KVOptions(kv_bits=(4, 3), measure_error=True, zero_point=False)
    assert parsed.spec == "livekv:kv-bits=4,3:zero-point=off:kv-error=on"
    assert livekv.KVOptions.parse("livekv:kv-error=off") == livekv.KVOptions()
    assert livekv.KVOptions.parse("kivi:kv_bits=2") == livekv.KVOptions(policy="kivi", kv_bits=2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "'' is neither a policy nor a preset; there are livekv, kvstream, guided, kivi, fastkv, finch, kvquant, f16, "),
        ("f32", "'f32' is neither a policy nor a preset"),
        ("livekv:bits=4", "there is no option 'bits'"),
        ("livekv:help", "there is no option 'help'"),
        ("livekv:kv=f16", "there is no option 'kv'"),
        ("livekv:kv-bits", "kv-bits needs a value"),
        ("livekv:kv-bits=", ": kv-bits: '' is not"),
        ("livekv:kv-bits=4:kv-bits=3", "kv-bits is given twice"),
        ("livekv:kv-error=maybe", ": kv-error: 'maybe' is not one of on, off"),
        ("livekv:chunk-size=33", ": chunk-size: '33' is not a multiple of 32"),
        ("livekv:", "there is no option ''"),
        ("livekv:--chunk-size=64", "there is no option '--chunk-size'"),
        ("livekv:sink-tokens=600", "sink_tokens: 600 is more than the chunk size, 512"),
    ],
)
def test_a_bad_spec_is_named_in_the_message(livekv, spec, message):
    with pytest.raises(livekv.Error) as raised:
        livekv.KVOptions.parse(spec)
    assert str(raised.value).startswith(f"cache '{spec}': ") and message in str(raised.value)
    assert "\n" not in str(raised.value)


OF_KVSTREAM = {
    "ema_decay", "key_bits_normal", "value_bits_normal", "key_bits_sink_outlier", "value_bits_sink_outlier", "stream_range",
    "outlier_threshold_relative", "outlier_threshold_abs", "outlier_detection", "value_quant_groups", "pre_rope", "stat_reset",
}  # fmt: skip
OF_GUIDED = {
    "alpha", "beta", "gamma", "theta_h", "theta_m", "level_bits", "guide", "guide_norm", "guide_tokens", "propagate", "early_ratio",
    "middle_ratio", "later_ratio", "budget", "protect", "keep_last", "key_axis", "min_class",
}  # fmt: skip
OF_FASTKV = {"retain_rate", "tsp_rate", "tsp_layer", "pooling", "store"}
OF_FINCH = {"target_tokens", "normalize"}


SHARED = {"sink_tokens": "livekv, kvstream, guided do", "kv_bits": "livekv, kivi, fastkv, kvquant do", "residual": "kivi does",
          "measure_error": "livekv, kvstream, guided, kivi, kvquant do", "calibration": "kvquant does"}  # fmt: skip


def test_an_option_that_a_specs_policy_does_not_read_is_an_error_that_says_whose_it_is(livekv):
    for row in livekv.kv_options_table():
        if row.field in ("policy", "chunk_size"):
            continue
        value = ("off", "on")[row.default] if isinstance(row.default, bool) else row.default
        value = ",".join(map(str, value)) if isinstance(value, tuple) else value
        for policy in ("f16", "q8_0", "q4_0_rot"):
            spec = f"{policy}:{row.flag.removeprefix('--')}={value}"  # its default, which changes nothing
            with pytest.raises(livekv.Error) as raised:
                livekv.KVOptions.parse(spec)
            own = {**dict.fromkeys(OF_KVSTREAM, "kvstream does"), **dict.fromkeys(OF_GUIDED, "guided does"),
                   **dict.fromkeys(OF_FASTKV, "fastkv does"), **dict.fromkeys(OF_FINCH, "finch does"), **SHARED}  # fmt: skip
            whose = own.get(row.field, "livekv does")
            assert str(raised.value) == f"cache '{spec}': {row.field}: the cache {policy} does not read it, {whose}"
    assert livekv.KVOptions.parse("f16:chunk-size=512") == livekv.KVOptions(policy="f16")
    with pytest.raises(livekv.Error, match="preset: the cache f16 does not read it, livekv, kvstream, guided do"):
        livekv.KVOptions.preset("default", policy="f16")


def test_a_preset_of_a_policy_in_a_text_is_where_the_others_start_from(livekv):
    parse, preset = livekv.KVOptions.parse, livekv.KVOptions.preset
    assert parse("guided:preset=reference") == preset("reference", policy="guided") != livekv.KVOptions(policy="guided")
    assert parse("livekv:preset=small") == parse("small")
    assert parse("livekv:kv-bits=4:preset=tiny") == parse("tiny:kv-bits=4") != parse("tiny")
    for bad, message in [("f16:preset=default", "preset: the cache f16 does not read it"),
                         ("guided:preset=small", "'small' is none of the cache guided"),
                         ("livekv:preset=no", "preset: 'no' is not one of default, reference"),
                         ("livekv:preset=small:preset=tiny", "preset is given twice"),
                         ("small:preset=tiny", "preset is given twice"),
                         ("livekv:preset", "preset needs a value")]:  # fmt: skip
        with pytest.raises(livekv.Error, match=message):
            parse(bad)


def test_a_number_in_a_list_of_caches_continues_the_value_before_it(livekv):
    listed = livekv.parse_kv_list("f16, livekv:kv-bits=4,3,q8_0,livekv:kv-bits=5,4:chunk-size=64,small")
    assert [label for label, _ in listed] == ["f16", "livekv:kv-bits=4,3", "q8_0", "livekv:kv-bits=5,4:chunk-size=64",
                                              "small"]  # fmt: skip
    assert [options for _, options in listed] == [livekv.KVOptions.parse(label) for label, _ in listed]
    for bad, message in [("f16,,q8_0", "an empty place"), ("", "an empty place"), ("f16,3", "'3' is neither"),
                         ("f16,q8_0,f16", "'f16' is listed twice")]:  # fmt: skip
        with pytest.raises(livekv.Error, match=message):
            livekv.parse_kv_list(bad)


def test_the_report_has_the_engines_parts_and_no_others(livekv, model):
    session = model.session(64)
    session.prefill([1, 2, 3])
    parts = session._core.stats()["bytes"]
    assert [field.name for field in dataclasses.fields(session.kv_stats().bytes)] == list(parts)
    assert sum(parts.values()) == 2 * parts["total"] == 2 * session.kv_bytes > 0
