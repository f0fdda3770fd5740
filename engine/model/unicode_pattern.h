#pragma once

#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;

namespace livekv {

// An expression of PCRE2's over UTF-8, whose classes are Unicode's. Text must be UTF-8.
class unicode_pattern {
  public:
    explicit unicode_pattern(const char * expression);  // one of ours, so that a wrong one is a bug

    bool is_in(std::string_view text) const;

    // text with each match as `how` writes it (pcre2_substitute). At most two bytes may come of one.
    std::string rewritten(std::string_view text, const char * how) const;

  private:
    std::unique_ptr<pcre2_real_code_8, void (*)(pcre2_real_code_8 *)> code_;
};

}  // namespace livekv
