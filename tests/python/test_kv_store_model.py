"""A model that is given a store says the same and computes less."""

from __future__ import annotations

import pytest
from conftest import ROOT

STORY = ROOT / "tests" / "models" / "story.gguf"
CHUNK = 64


def test_models_of_a_process_share_a_store(livekv, opening, tmp_path):
    prompt = opening.read_text()[:3000]
    store = livekv.ChunkStore(tmp_path / "store")
    kv = livekv.KVOptions(chunk_size=CHUNK)
    got = []
    for kept in (None, store, livekv.ChunkStore(tmp_path / "store")):
        model = livekv.Model(STORY, n_threads=1, store=kept)
        with model.session(1500, kv=kv) as session:
            text = session.generate(prompt, max_tokens=20, temperature=0)
            got.append(("".join(text), text.usage.cached_tokens))
    assert got[0][0] == got[1][0] == got[2][0]
    assert got[0][1] == got[1][1] == 0 and got[2][1] > 8 * CHUNK
    assert kept.counts["tokens_read"] == got[2][1] and kept.counts["pieces_written"] == 0 and kept.problem == ""
    pieces = store.pieces()
    assert sum(piece.n_tokens for piece in pieces) == store.counts["pieces_written"] * CHUNK + CHUNK
    assert all(piece.readable and piece.policy == "livekv" for piece in pieces)
    for wrong in (0, -1, 1 << 63, 1.5, "10G"):
        with pytest.raises(livekv.Error, match="limit is .*; it must be .*in 1.."):
            livekv.ChunkStore(tmp_path / "store", limit=wrong)
    most = sum(piece.bytes for piece in pieces) // 2
    assert livekv.ChunkStore(tmp_path / "store", limit=most).counts["evicted"] > 0
    left = store.pieces()
    assert 0 < sum(piece.bytes for piece in left) <= most and min(piece.first_token for piece in left) == 0
    with pytest.raises(livekv.Error, match="it must be a livekv.ChunkStore"):
        livekv.Model(STORY, store=str(tmp_path))
