"""Wrong arguments of the package: one line of livekv.Error that names the one that does not fit."""

from __future__ import annotations

import ast

import numpy as np
import pytest

BIG = 2**70
FLOATS = np.ones((1, 9, 8), np.float32)  # an array where something else is meant

CALLS = {
    "session(n_ctx=1.5)": "n_ctx is 1.5; it must be a whole number",
    "session(n_ctx='9')": "n_ctx is '9'; it must be a whole number",
    "session(kv=3)": "kv is 3; it must be livekv.KVOptions, or a spec such as 'livekv:kv-bits=3'",
    "session(kv=livekv.KVOptions)": "it must be livekv.KVOptions, or a spec",
    "session(n_threads=0)": "n_threads is 0; it must be in 1..512",
    "session(kv='smal')": "smal",
    "generate('a', max_tokens=1.5)": "max_tokens is 1.5; it must be a whole number",
    "generate('a', max_tokens=BIG)": f"max_tokens is {BIG}, which is out of range",
    "generate('a', stop=[None])": "stop is [None]; it must be a list of texts",
    "generate('a', stop=3)": "stop is [3]; it must be a list of texts",
    "generate('a', stop='\\ud800')": "stop is ['\\ud800']; it must be a list of texts",
    "generate('a', seed=1.5)": "seed is 1.5; it must be a whole number in 0..",
    "generate('a', lookup=True)": "lookup is True; it must be a whole number in 0..64",
    "tokenize('a', behind=2**40)": f"behind is {2**40}, which is out of range",
    "tokenize('a', behind='b')": "behind is 'b'; it must be a whole number",
    "token_piece(2**40)": f"token is {2**40}, which is out of range",
    "token_piece(None)": "token is None; it must be a whole number",
    "is_end_of_generation('a')": "token is 'a'; it must be a whole number",
    "rope('0')": "layer is '0'; it must be a whole number",
    "trim(BIG)": f"n_tokens is {BIG}, which is out of range",
    "trim('1')": "n_tokens is '1'; it must be a whole number",
    "eval([1], all_logits='yes')": "all_logits is 'yes'; it must be True or False",
    "verify([1], 3)": "choose is 3; it must be a function",
    "verify([1, 2], lambda logits: 'a')": "choose gave 'a', which is no token, nor None",
    "save(3)": "3 is no name of a file",
    "step([(s, [1])], to_come=1.5)": "to_come is 1.5; it must be a whole number in 0..",
    "step([(s, [1])], to_come=[1, 2])": "to_come has 2 entries for a batch of 1",
    "step([(s, [1])], generated=[None, 1])": "generated has 2 entries for a batch of 1",
    "livekv.Engine(model, n_threads=513)": "n_threads is 513; it must be in 1..512",
    "livekv.KVOptions.parse(None)": "spec is None; it must be text",
    "livekv.KVOptions.preset(3)": "preset is 3; it must be text",
    "livekv.Model('/none', prefix_cache_bytes=BIG)": f"prefix_cache_bytes is {BIG}, which is out of range",
    "livekv.Model('/none', n_gpu_layers=1.5)": "n_gpu_layers is 1.5; it must be a whole number",
    "livekv.Model('\\ud800')": "'\\ud800' is no name of a file",
    "livekv.Model(3)": "3 is no name of a file",
    "livekv.Model(model.path, n_threads=0)": "n_threads is 0; it must be in 1..512",
    "livekv.Model(model.path, n_threads=-1)": "n_threads is -1; it must be in 1..512",
    "livekv.Model(model.path, n_threads=513)": "n_threads is 513; it must be in 1..512",
    "livekv.Model(model.path, n_threads=1.5)": "n_threads is 1.5; it must be a whole number in 1..512",
    "livekv.Model(model.path, n_threads='2')": "n_threads is '2'; it must be a whole number in 1..512",
    "livekv.TextStream(model, [1])": "stop is [1]; it must be a list of texts",
    "livekv.Lookup('a')": "most is 'a'; it must be a whole number in 1..64",
    "livekv.Lookup(3).draft(1.5)": "room is 1.5; it must be a whole number",
    "livekv.Sampler(model).next('abc')": "logits is 'abc'; it must be an array of float32",
    "livekv.fidelity(model, 'a', windows=1.5)": "windows is 1.5; it must be a whole number in 1..",
    "livekv.fidelity(model, 'a', base=3)": "base is 3; it must be livekv.KVOptions",
    "livekv.kv.KeyStream(3)": "options is 3; it must be livekv.KVOptions",
    "livekv.kv.GuidedLayer(livekv.kv.GuidedMethod(alpha='x'), layer=0, n_layer=1, n_prompt=9)": "alpha: 'x' is not",
    "livekv.kv.GuidedLayer(livekv.kv.GuidedMethod(level_bits=8), layer=0, n_layer=1, n_prompt=9)": "level_bits: 8 is not",
    "livekv.kv.GuidedLayer(livekv.kv.GuidedMethod(guide=8), layer=0, n_layer=1, n_prompt=9)": "guide: there is no 8",
    "livekv.kv.GuidedLayer(layer='x', n_layer=1, n_prompt=9)": "layer is 'x'; it must be a whole number",
    "livekv.kv.GuidedLayer(livekv.KVOptions(), layer=0, n_layer=1, n_prompt=9)": "it must be a livekv.kv.GuidedMethod",
    "livekv.kv.GuidedLayer(layer=0, n_layer=1, n_prompt=9).add(F, None, F)": "a chunk must be a numpy array, not NoneType",
    "livekv.kv.GuidedLayer(layer=0, n_layer=1, n_prompt=9).add(F, F, F, positions=['a'])": "positions[0] is 'a'; it must",
    "livekv.kv.guided_statistics(F, 5)": "; it must be a livekv.kv.GuidedChunk",
    "livekv.kv.guided_statistics(5, 5)": "layers is 5; it must be a list for each layer of",
    "livekv.kv.stream_statistics(SEALED, SEALED)": "it must be a livekv.kv.Streamed",
    "livekv.kv.stream_statistics(iter([]), iter([]))": "there are no chunks",
    "livekv.Sampler(livekv.Engine(model))": "it must be a livekv.Model",
    "livekv.Sampler(5)": "model is 5; it must be a livekv.Model",
    "livekv.Session(5, 64, None, None)": "model is 5; it must be a livekv.Model",
    "livekv.TextStream('m.gguf')": "model is 'm.gguf'; it must be a livekv.Model",
    "livekv.Engine('m.gguf')": "model is 'm.gguf'; it must be a livekv.Model",
    "livekv.fidelity('m.gguf', 'a')": "model is 'm.gguf'; it must be a livekv.Model",
    "livekv.Model(model.path, store=F)": "store is a value of type ndarray; it must be a livekv.ChunkStore",
    "livekv.ChunkStore('/none', remote=F)": "remote is a value of type ndarray; it must be a URL",
    "livekv.kv.KeyStream(F)": "options is a value of type ndarray; it must be livekv.KVOptions",
    "livekv.remote.open_remote(5)": "url is 5; it must be text",
    "list(livekv.Engine(model).generate_batch(['a']))": "a text of the batch is 'a'; it must be a livekv.Generation",
    "step([('s', [1])])": "the session of item 0 of the batch is 's'; it must be a livekv.Session",
    "step([5])": "item 0 of the batch is not a session and its tokens",
    "livekv.KVOptions(policy='\\ud800')": "policy is '\\ud800'; it must be text",
    "livekv.KVOptions(kv_bits='\\udcff')": "kv_bits is '\\udcff'; it must be text",
    "livekv.Model(model.path, rope_scaling='\\ud800')": "rope_scaling is '\\ud800'; it must be text",
    "livekv.parse_kv_list(5)": "a list of caches is 5; it must be text",
    "tokenize(5)": "the text is 5; it must be text",
    "apply_chat_template([], tokenize=F)": "tokenize is a value of type ndarray; it must be True or False",
    "session(n_ctx=F)": "n_ctx is a value of type ndarray; it must be a whole number",
    "token_piece(np.array('a'))": "token is array('a', dtype='<U1'); it must be a whole number",
    "rope(F)": "layer is a value of type ndarray; it must be a whole number",
    "eval([1], all_logits=F)": "all_logits is a value of type ndarray; it must be True or False",
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_argument_is_named_in_one_line(livekv, model, call):
    with model.session(n_ctx=64) as s:
        s.prefill([1])
        engine = livekv.Engine(model)
        name = call.partition("(")[0]
        owner = next((o for o in (s, model, engine) if hasattr(o, name)), None)
        with pytest.raises(livekv.Error) as problem:
            eval(call if owner is None else f"owner.{call}",
                 {"owner": owner, "livekv": livekv, "model": model, "s": s, "BIG": BIG, "np": np, "F": FLOATS,
                  "SEALED": [livekv.kv.KeyStream().seal(FLOATS)]})  # fmt: skip
        assert CALLS[call] in str(problem.value) and len(str(problem.value).splitlines()) == 1
        assert s.n_tokens == 1 or call.startswith("verify")  # nothing has happened


def test_right_ones_are_taken_as_before(livekv, model):
    with model.session(n_ctx=np.int64(64), kv="livekv:kv-bits=3", n_threads=np.int32(1)) as s:
        assert s.kv == livekv.KVOptions(kv_bits=3) and s.n_ctx == 64
        s.prefill(np.array([1, 2]))
        s.trim(np.int64(1))
        assert livekv.Engine(model).step([(s, [2])], to_come=np.int64(0), generated=[True])[0].shape == (model.n_vocab,)
        assert list(s.generate(None, max_tokens=0, stop={"a", "b"})) == []
    with model.session(n_ctx=64, kv="small") as s:
        assert s.kv == livekv.KVOptions.preset("small")


@pytest.mark.parametrize("kind", [TypeError, ValueError, RuntimeError])
def test_what_a_callback_raises_is_its_own(model, kind):
    def choose(logits):
        raise kind("verify(): incompatible with anything")

    with model.session(n_ctx=64) as s, pytest.raises(kind, match="incompatible with anything"):
        s.verify([1], choose)


def test_statistics_take_what_can_be_read_once(livekv):
    one = livekv.kv.KeyStream(livekv.KVOptions(policy="kvstream")).seal(FLOATS)
    assert livekv.kv.stream_statistics(iter([one]), iter([one])) == livekv.kv.stream_statistics([one], (one,))


def test_layers_for_a_gpu_that_is_not_there_are_warned_of(livekv, model):
    if livekv.system_info()["gpu"]:
        pytest.skip("there is one")
    with pytest.warns(UserWarning, match="no GPU in this build or machine, n_gpu_layers is ignored"):
        livekv.Model(model.path, n_gpu_layers=1)


def test_every_call_of_the_extension_is_wrapped_and_every_type_it_takes_has_a_name(livekv):
    from livekv import arguments

    def functions(owner):
        for member in vars(owner).values():
            function = getattr(member, "__func__", member)
            if isinstance(member, type) and member.__module__ == "livekv._livekv":
                yield from functions(member)
            elif callable(function) and "(" in (function.__doc__ or "") and not isinstance(member, type):
                yield function

    found = list(functions(livekv._livekv))
    assert len(found) > 80
    for function in found:
        assert function.__wrapped__, function
        (declared,) = ast.parse(f"def {function.__doc__.strip().splitlines()[0]}: ...").body
        for parameter in [*declared.args.args, *declared.args.kwonlyargs]:
            kind = ast.unparse(parameter.annotation)
            assert not parameter.arg.startswith("arg"), f"{declared.name}: an argument without a name"
            assert kind == "object" or arguments._kind(kind)[0] != "another", f"{declared.name}: {parameter.arg}"
