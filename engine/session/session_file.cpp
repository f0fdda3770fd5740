#include "error.h"
#include "policy/kv_policies.h"
#include "policy/saved_options.h"
#include "run/chunked_cache.h"
#include "session/session.h"
#include "without_bad_alloc.h"

namespace livekv {

void session::save(const std::string & path) const {
    const auto * cache = dynamic_cast<const chunked_cache *>(cache_.get());
    if (!cache || !find_kv_policy(cache->options().policy).saves()) {
        fail("cannot save '", path, "': only ", saving_policies(), " caches can be saved");
    }
    if (cache->judges_prompt() && n_tokens() > 0) {
        fail("cannot save '", path, "': its prompt is not complete, and the guide at its end is not known yet");
    }
    without_bad_alloc("the copy to be saved", [&] {
        write_kv_file(path, get_model().fingerprint(get_model().hp.is_long(n_ctx())), texts_of(cache->options()),
                      cache->layers_on_host(), tokens_, last_logits_);
    });
}

kv_options saved_options(const kv_file & file) {
    try {
        const kv_options options = options_from(file.options(), file.version());
        if (!find_kv_policy(options.policy).saves()) {
            fail("it holds a cache of policy '", options.policy, "', only ", saving_policies(), " can be restored");
        }
        return options;
    } catch (const error & problem) {
        file.refuse(problem.what());
    }
}

void session::load(const kv_file & file) {
    if (n_tokens() > 0) {
        fail("a saved sequence needs an empty session; this one holds ", n_tokens(), " tokens");
    }
    without_bad_alloc("the saved sequence", [&] {
        const hparams & hp = get_model().hp;
        session_params params = params_;
        params.kv = saved_options(file);
        file.require_model(get_model().fingerprint(hp.is_long(n_ctx())));
        file.require_room(n_ctx(), hp.n_vocab);
        params.kv.measure_error = params_.kv.measure_error;
        const kv_shape shape = engine_->shape(n_ctx());
        std::vector<kv_layer_format> formats;
        for (const chunk_plan & plan : plan_chunks(params.kv, shape)) {
            formats.push_back(format_of(plan));
        }
        auto cache = std::make_unique<chunked_cache>(params.kv, shape, file.layers(formats));
        std::vector<float> logits = file.logits(hp.n_vocab);
        std::vector<int32_t> tokens = file.tokens();
        cache_ = std::move(cache);
        params_ = std::move(params);
        tokens_ = std::move(tokens);
        last_logits_ = std::move(logits);
    });
}

void session::load(const std::string & path) {
    without_bad_alloc("the saved sequence", [&] { load(kv_file(path)); });
}

}  // namespace livekv
