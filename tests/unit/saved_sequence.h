#pragma once

// Saved sequences for tests: of a small model, with everything a file can hold.

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "check.h"
#include "session/session.h"
#include "store/kv_file_names.h"
#include "tiny_sequences.h"
#include "xxh64.h"

namespace kv_saved {

using namespace livekv;
using tiny_sequences::same_bits;
using tiny_sequences::some_tokens;
using tiny_sequences::tiny_model;

inline tiny_spec four_layer_spec() {
    tiny_spec spec;
    spec.n_layer = 4;
    return spec;
}

inline std::shared_ptr<const model> four_layers() {
    static const auto m = tiny_model(four_layer_spec());
    return m;
}

inline session_params params_of(int64_t n_ctx = 400) {
    session_params p;
    p.n_ctx = n_ctx;
    p.n_threads = 1;
    p.kv.chunk_size = 64;
    p.kv.scale_method = kv_method::scale::ema_absmax;
    p.kv.key_group = 0;
    p.kv.zero_point = false;
    p.kv.rotate = kv_rotate::none;
    p.kv.outlier_ratio = 0.01;
    p.kv.v_outlier_ratio = -1.0;
    p.kv.warmup_chunks = 1;
    p.kv.bypass_layers = 1;
    return p;
}

// Both sequences get the same further tokens, past two chunk ends, and must give the same bits at each step.
inline bool go_on_alike(session & a, session & b) {
    const std::vector<int32_t> more = some_tokens(100, 77);
    bool same = same_bits(a.prefill(more), b.prefill(more));
    for (const int32_t token : some_tokens(40, 99)) {
        same = same && same_bits(a.prefill({&token, 1}), b.prefill({&token, 1}));
    }
    return same && std::ranges::equal(a.tokens(), b.tokens()) && a.cache().bytes() == b.cache().bytes();
}

inline std::vector<uint8_t> read_bytes(const std::string & path) {
    const std::string text = check::read_file(path);
    return {text.begin(), text.end()};
}

inline void write_bytes(const std::string & path, std::span<const uint8_t> bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char *>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

inline void decode(session & s, int n, uint32_t seed) {
    for (const int32_t token : some_tokens(n, seed)) {
        s.append(token);
    }
}

// What someone does who changes a file on purpose.
inline void renew_checksum(std::vector<uint8_t> & file) {
    const size_t at = kv_names::checksum_at();
    std::fill_n(file.begin() + static_cast<int64_t>(at), 8, uint8_t{0});
    xxh64 hash;
    hash.update(file);
    const uint64_t sum = hash.digest();
    std::memcpy(file.data() + at, &sum, sizeof(sum));
}

inline size_t find(const std::vector<uint8_t> & bytes, const std::string & text) {
    const auto at = std::search(bytes.begin(), bytes.end(), text.begin(), text.end());
    return static_cast<size_t>(at - bytes.begin());
}

// A small saved sequence with everything a file can hold: sealed, exact and trimmed chunks, sinks, tail, logits.
inline std::vector<uint8_t> saved_file(const std::shared_ptr<const model> & m) {
    session_params p = params_of();
    p.kv.chunk_size = 32;
    p.kv.warmup_chunks = 2;
    p.kv.bits = {5, 3};
    p.kv.seal_decode = false;
    p.kv.bypass_type = kv_bypass::f16;
    session s(m, p);
    s.prefill(some_tokens(90));
    decode(s, 40, 4);
    const temporary_file file(".kv");
    s.save(file.path());
    return read_bytes(file.path());
}

}  // namespace kv_saved
