#include "model/unicode_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "error.h"

namespace livekv {

unicode_pattern::unicode_pattern(const char * expression) : code_(nullptr, pcre2_code_free) {
    int code = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                              &code, &offset, nullptr));
    LIVEKV_ASSERT(code_);
}

bool unicode_pattern::is_in(std::string_view text) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(pcre2_match_data_create(1, nullptr),
                                                                                   pcre2_match_data_free);
    LIVEKV_ASSERT(data);
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, PCRE2_NO_UTF_CHECK,
                       data.get(), nullptr) > 0;
}

std::string unicode_pattern::rewritten(std::string_view text, const char * how) const {
    constexpr uint32_t options = PCRE2_SUBSTITUTE_GLOBAL | PCRE2_SUBSTITUTE_EXTENDED | PCRE2_NO_UTF_CHECK;
    std::string out(2 * text.size() + 16, '\0');
    PCRE2_SIZE size = out.size();
    const int n = pcre2_substitute(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, options,
                                   nullptr, nullptr, reinterpret_cast<PCRE2_SPTR>(how), PCRE2_ZERO_TERMINATED,
                                   reinterpret_cast<PCRE2_UCHAR *>(out.data()), &size);
    LIVEKV_ASSERT(n >= 0);
    out.resize(size);
    return out;
}

}  // namespace livekv
