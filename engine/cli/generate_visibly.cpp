#include "cli/generate_visibly.h"

#include <iostream>

#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/tool.h"

namespace livekv {

generate_result generate_visibly(session & s, const std::vector<int32_t> & prompt, const generate_params & params,
                                 const std::function<void(std::string_view)> & on_text) {
    prefill_progress progress(static_cast<int64_t>(prompt.size()));
    generate_callbacks callbacks;
    callbacks.on_prefill = [&](int64_t n_done) {
        progress.update(n_done, [&] { return s.cache().bytes(); });
        if (n_done == static_cast<int64_t>(prompt.size())) {
            progress.finish();
        }
        return !interrupted();
    };
    callbacks.on_text = [&](std::string_view piece) {
        std::cout << piece;
        flush_stdout();  // nobody who reads, nothing to generate
        if (on_text) {
            on_text(piece);
        }
        return !interrupted();
    };
    callbacks.interrupted = [] { return interrupted(); };
    const generate_result result = generate(s, prompt, params, callbacks);
    progress.finish();
    return result;
}

}  // namespace livekv
