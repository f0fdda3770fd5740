"""What tests of a cache policy in the engine do with sequences, the same for each."""

from __future__ import annotations

import numpy as np


def go_on(session, tokens):
    """A token at a time, beyond the end of the chunk."""
    return np.stack([session.eval([token])[0] for token in tokens])


def kl(logits, reference):
    """Mean divergence of rows of logits from the reference's."""
    p, q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (reference.astype(float), logits.astype(float)))
    return (np.exp(p) * (p - q)).sum(-1).mean()


def same_dumps(model, one, other):
    for layer in range(model.n_layer):
        expected, actual = one.kv_dump(layer), other.kv_dump(layer)
        assert set(expected) == set(actual)
        for name, array in expected.items():
            np.testing.assert_array_equal(actual[name], array, err_msg=f"{layer} {name}")


def check_one_batch(livekv, model, tokens, specs):
    """Sequences with caches of these specs, in steps of all of them, beside each alone."""
    engine = livekv.Engine(model)
    together = [model.session(400, kv=livekv.KVOptions.parse(spec)) for spec in specs]
    alone = [model.session(400, kv=livekv.KVOptions.parse(spec)) for spec in specs]
    for first in range(0, 130, 26):
        part = tokens[first : first + 26]
        results = engine.step([(session, part) for session in together])
        for spec, logits, other in zip(specs, results, alone, strict=True):
            assert kl(logits[-1:], other.eval(part)[-1:]) < 1e-6, spec  # sums of a product may run in another order
