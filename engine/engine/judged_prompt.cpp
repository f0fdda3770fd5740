// Prompts of policy fastkv: read to the layer that chooses as they come, and beyond it when they are complete.

#include <algorithm>

#include "engine/engine.h"
#include "error.h"

namespace livekv {

void engine::judged_step(const batch_item & item) {
    if (item.n_outputs > 1 || (item.n_outputs == 1 && !item.end_of_prompt)) {
        fail("of a prompt that is judged as a whole (policy fastkv) the last token's logits alone are known");
    }
    auto & cache = static_cast<chunked_cache &>(*item.cache);
    try {
        read_early(item, cache);
        if (item.end_of_prompt) {
            read_later(item, cache);
            return cache.complete_prompt();
        }
    } catch (...) {
        cache.take_back_step();
        throw;
    }
    cache.finish_step();
}

void engine::read_early(const batch_item & item, chunked_cache & cache) {
    const int64_t first = cache.n_tokens();
    const auto n_new = static_cast<int64_t>(item.tokens.size());
    const pass_part part = {
        &cache, n_new, item.origin, item.end_of_prompt, item.n_prompt, 0, {0, cache.prompt().n_early()}};
    runner_.begin({&part, 1});
    positions_.clear();
    for (int64_t i = 0; i < n_new; ++i) {
        positions_.push_back(static_cast<int32_t>(first + i));
    }
    forward_.run({item.tokens, {}, positions_, {}, model_->hp.is_long(cache.n_ctx())});
    runner_.check();
    forward_.rows_out(cache.prompt().wait(n_new, model_->hp.n_embd));
    runner_.commit();
}

// In passes of a chunk, so that what they compute with does not grow with the prompt.
void engine::read_later(const batch_item & item, chunked_cache & cache) {
    fastkv_prompt & prompt = cache.prompt();
    const std::span<const int32_t> all = prompt.choose(cache.step(prompt.n_early() - 1));
    const auto n_all = static_cast<int64_t>(all.size());
    const int64_t n_pass = cache.options().chunk_tokens();
    for (int64_t done = 0; done < n_all; done += n_pass) {
        const int64_t n = std::min(n_pass, n_all - done);
        const bool ends = done + n == n_all;
        const pass_part part = {&cache, n, item.origin, ends, item.n_prompt, 0, {prompt.n_early()}};
        runner_.begin({&part, 1});
        const std::span<const int32_t> positions = all.subspan(static_cast<size_t>(done), static_cast<size_t>(n));
        outputs_.assign(static_cast<size_t>(ends ? item.n_outputs : 0), static_cast<int32_t>(n - 1));
        forward_.run({{}, prompt.waiting(done, n), positions, outputs_, model_->hp.is_long(cache.n_ctx())});
        runner_.check();
        if (!outputs_.empty()) {
            forward_.logits(0, 1, item.logits);
            require_numbers(item, cache.n_tokens() - static_cast<int64_t>(item.tokens.size()));
        }
        runner_.commit();
    }
}

}  // namespace livekv
