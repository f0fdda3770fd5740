#pragma once

#include <string>
#include <vector>

namespace livekv {

// Ends a stream of text before the first of some strings to be complete, however the stream is cut into pieces: what
// may be the beginning of one is held back until it is known.
class stop_strings {
  public:
    // Throws livekv::error for an empty string, which would end every text before it begins.
    explicit stop_strings(std::vector<std::string> stops);

    // The text that is certain now: after a piece, and at the stream's end, when nothing is held back any more.
    std::string push(const std::string & piece);
    std::string finish();

    // A stop string has come: the text before it was handed out, nothing more will be.
    bool found() const { return found_; }

  private:
    std::vector<std::string> stops_;
    std::string held_;  // may begin a stop string
    bool found_ = false;
};

}  // namespace livekv
