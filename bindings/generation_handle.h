#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "calls.h"
#include "livekv.h"

namespace livekv {

// A generation and the session it writes into, which nobody else may change meanwhile.
class generation_handle {
  public:
    generation_handle(std::shared_ptr<session_handle> h, const py::object & prompt, const generate_params & params);

    // The next piece of text that is not empty; none when the text has ended.
    std::optional<std::string> next();

    // Ends the text here, with what was held back.
    void interrupt();

    std::string text() const {
        const session_lock lock(*handle_);
        return text_;
    }

    std::vector<int32_t> tokens() const {
        const session_lock lock(*handle_);
        return tokens_;
    }
    bool ended() const {
        const session_lock lock(*handle_);
        return !failed_ && generation_->ended();
    }
    bool over_now() const {
        const session_lock lock(*handle_);
        return over();
    }
    generate_result result() const {
        const session_lock lock(*handle_);
        return generation_->result();
    }

    // For those who run several: what they lock, and, while they hold it, the text itself.
    session_handle & get_session() const { return *handle_; }
    bool over() const { return failed_ || generation_->ended(); }
    generation & unchanged();  // throws livekv::error when the session was changed meanwhile
    void take(const std::string & piece);
    void fail_text() { failed_ = true; }
    void interrupt_held() {
        if (!failed_) {
            text_ += generation_->interrupt();
        }
    }

  private:
    std::optional<std::string> next_piece();

    std::shared_ptr<session_handle> handle_;
    uint64_t n_changes_ = 0;
    std::optional<generation> generation_;
    int64_t n_taken_ = 0;          // of the tokens sampled
    std::string text_;             // all that was given out
    std::vector<int32_t> tokens_;  // generated, without an end-of-text token
    bool failed_ = false;          // by an exception: there is no more text
};

}  // namespace livekv
