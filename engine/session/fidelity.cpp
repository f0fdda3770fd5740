#include "session/fidelity.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "error.h"

namespace livekv {

namespace {

// ln of the sum of exp(logits): what turns a logit into a log-probability.
double log_sum_exp(std::span<const float> logits) {
    const float max = *std::max_element(logits.begin(), logits.end());
    double sum = 0.0;
    for (const float logit : logits) {
        sum += std::exp(static_cast<double>(logit - max));
    }
    return static_cast<double>(max) + std::log(sum);
}

struct mean_error {
    double mean;
    double standard_error;
};

// values: at least two, as a window of min_window tokens has.
mean_error mean_of(const std::vector<double> & values) {
    const double n = static_cast<double>(values.size());
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
    double squares = 0.0;
    for (const double value : values) {
        squares += (value - mean) * (value - mean);
    }
    return {mean, std::sqrt(squares / (n - 1.0) / n)};
}

double quantile(const std::vector<double> & sorted, double share) {
    const double at = share * static_cast<double>(sorted.size() - 1);
    const size_t below = static_cast<size_t>(at);
    const size_t above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

// A session that reads windows, and hands out one token's logits after the other.
class reader {
  public:
    reader(const std::shared_ptr<engine> & e, const session_params & params, std::function<void()> on_pass)
        : session_(e, params),
          n_vocab_(static_cast<size_t>(e->get_model()->hp.n_vocab)),
          on_pass_(std::move(on_pass)) {}

    // Starts a window anew, of which the logits from token first on are wanted. It must outlive the reading.
    void begin(std::span<const int32_t> window, int64_t first) {
        session_.reset();
        window_ = window;
        first_ = first;
        n_taken_ = 0;
        rows_ = {};
    }

    // The next token's, f32 [n_vocab], valid until the next call.
    std::span<const float> next_row() {
        while (n_taken_ == rows_.n_rows) {
            pass();
        }
        return rows_.logits.subspan(static_cast<size_t>(n_taken_++) * n_vocab_, n_vocab_);
    }

    // Reads the rest of the window.
    void finish() {
        while (rows_.n_done < static_cast<int64_t>(window_.size())) {
            pass();
        }
    }

    const session & get_session() const { return session_; }

  private:
    void pass() {
        rows_ = session_.eval_pass(window_, rows_.n_done, first_);
        n_taken_ = 0;
        if (on_pass_) {
            on_pass_();
        }
    }

    session session_;
    size_t n_vocab_;
    std::function<void()> on_pass_;
    std::span<const int32_t> window_;
    int64_t first_ = 0;
    session::eval_rows rows_;
    int64_t n_taken_ = 0;  // of rows_
};

class scorer {
  public:
    scorer(const std::shared_ptr<const model> & m, const fidelity_params & params, const fidelity_callbacks & callbacks)
        : n_ctx_(params.test.n_ctx),
          engine_(std::make_shared<engine>(m, params.test.n_threads)),
          test_(engine_, params.test, callbacks.on_chunk) {
        if (params.kl_base) {
            session_params base = params.test;
            base.kv = *params.kl_base;
            base_.emplace(engine_, base, callbacks.on_chunk);
        }
    }

    // Only the scored half's logits are computed. Both caches read in turns, so that no more of them are held than
    // those of a pass each. The last token, which predicts nothing of the window, is processed too: a full window is
    // what bits_per_value speaks of.
    void score(std::span<const int32_t> window) {
        const int64_t first = n_ctx_ / 2;
        test_.begin(window, first);
        if (base_) {
            base_->begin(window, first);
        }
        for (int64_t i = first; i + 1 < n_ctx_; ++i) {
            const size_t target = static_cast<size_t>(window[static_cast<size_t>(i + 1)]);
            const std::span<const float> row = test_.next_row();
            if (base_) {
                compare(base_->next_row(), row, target);
            } else {
                nll_.push_back(log_sum_exp(row) - row[target]);
            }
        }
        test_.finish();
    }

    fidelity result(int64_t n_windows) const {
        fidelity f;
        f.n_windows = n_windows;
        f.n_tokens = static_cast<int64_t>(nll_.size());
        f.bits_per_value = test_.get_session().kv_bits_per_value().value();
        const mean_error nll = mean_of(nll_);
        f.ppl = std::exp(nll.mean);
        f.ppl_stderr = f.ppl * nll.standard_error;
        f.nll = nll_;
        if (base_) {
            fidelity::divergence d;
            const mean_error kl = mean_of(kl_);
            std::vector<double> sorted = kl_;
            std::sort(sorted.begin(), sorted.end());
            d.mean = kl.mean;
            d.mean_stderr = kl.standard_error;
            d.median = quantile(sorted, 0.5);
            d.p999 = quantile(sorted, 0.999);
            d.max = sorted.back();
            d.same_top = static_cast<double>(n_same_top_) / static_cast<double>(kl_.size());
            d.base_ppl = std::exp(mean_of(base_nll_).mean);
            d.tokens = kl_;
            d.base_nll = base_nll_;
            f.kl = d;
        }
        return f;
    }

  private:
    void compare(std::span<const float> base, std::span<const float> test, size_t target) {
        const double base_norm = log_sum_exp(base);
        const double test_norm = log_sum_exp(test);
        double kl = 0.0;
        for (size_t i = 0; i < base.size(); ++i) {
            const double log_p = base[i] - base_norm;
            kl += std::exp(log_p) * (log_p - (test[i] - test_norm));
        }
        kl_.push_back(kl);
        nll_.push_back(test_norm - test[target]);
        base_nll_.push_back(base_norm - base[target]);
        const auto top = [](std::span<const float> x) { return std::max_element(x.begin(), x.end()) - x.begin(); };
        n_same_top_ += top(base) == top(test);
    }

    int64_t n_ctx_;
    std::shared_ptr<engine> engine_;  // of both
    reader test_;
    std::optional<reader> base_;
    std::vector<double> nll_;       // [n_tokens], nats
    std::vector<double> base_nll_;  // [n_tokens]
    std::vector<double> kl_;        // [n_tokens]
    int64_t n_same_top_ = 0;
};

}  // namespace

fidelity measure_fidelity(const std::shared_ptr<const model> & m, const std::vector<int32_t> & tokens,
                          const fidelity_params & params, const fidelity_callbacks & callbacks) {
    const int64_t n_ctx = params.test.n_ctx;
    if (n_ctx < fidelity_params::min_window) {
        fail("a window of ", n_ctx, " tokens is too short; the least is ", fidelity_params::min_window);
    }
    const int64_t available = static_cast<int64_t>(tokens.size()) / n_ctx;
    if (available < 1) {
        fail("the text has ", tokens.size(), " tokens, one window needs ", n_ctx);
    }
    const int64_t n_windows = params.max_windows > 0 ? std::min(params.max_windows, available) : available;
    scorer score(m, params, callbacks);
    for (int64_t w = 0; w < n_windows; ++w) {
        std::vector<int32_t> window(tokens.begin() + w * n_ctx, tokens.begin() + (w + 1) * n_ctx);
        if (m->vocab.adds_bos()) {
            window[0] = m->vocab.bos();
        }
        score.score(window);
        if (callbacks.on_window) {
            callbacks.on_window(w + 1, n_windows);
        }
    }
    return score.result(n_windows);
}

}  // namespace livekv
