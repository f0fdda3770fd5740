#include "model/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "error.h"
#include "model/pretokenizer_families.h"
#include "utf8.h"

namespace livekv {

namespace {

pcre2_code * compile(const char * expression) {
    int code = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code * compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression), PCRE2_ZERO_TERMINATED,
                                          PCRE2_UTF | PCRE2_UCP, &code, &offset, nullptr);
    LIVEKV_ASSERT(compiled);
    return compiled;
}

struct piece {
    std::string_view text;
    bool is_utf8;
};

// Runs of whole characters and runs of other bytes. PCRE2 could skip bad bytes itself (PCRE2_MATCH_INVALID_UTF), but it
// then checks the rest of the text before every match, which takes quadratic time.
std::vector<piece> cut_at_bad_bytes(std::string_view text) {
    std::vector<piece> pieces;
    size_t begin = 0;
    bool is_utf8 = true;
    for (size_t at = 0; at < text.size();) {
        const utf8_head head = read_utf8(text.substr(at));
        if (head.valid != is_utf8) {
            if (at > begin) {
                pieces.push_back({text.substr(begin, at - begin), is_utf8});
            }
            begin = at;
            is_utf8 = head.valid;
        }
        at += head.length;
    }
    if (begin < text.size()) {
        pieces.push_back({text.substr(begin), is_utf8});
    }
    return pieces;
}

class matcher {
  public:
    explicit matcher(uint32_t match_limit)
        : data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
        LIVEKV_ASSERT(data_ && context_);
        pcre2_set_match_limit(context_, match_limit);
    }
    ~matcher() {
        pcre2_match_data_free(data_);
        pcre2_match_context_free(context_);
    }
    matcher(const matcher &) = delete;
    matcher & operator=(const matcher &) = delete;

    // Matches and what lies between them, in order.
    void cut(const pcre2_code * code, std::string_view text, std::vector<piece> & out) {
        const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
        size_t at = 0;
        const auto emit = [&](size_t end) {
            if (end > at) {
                out.push_back({text.substr(at, end - at), true});
                at = end;
            }
        };
        while (at < text.size()) {
            const int found =
                pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, data_, context_);
            if (found == PCRE2_ERROR_NOMATCH) {
                break;
            }
            if (found < 0) {
                PCRE2_UCHAR message[128];
                pcre2_get_error_message(found, message, sizeof message);
                fail("cutting a text of ", text.size(),
                     " bytes into words failed: ", reinterpret_cast<const char *>(message));
            }
            const PCRE2_SIZE * bounds = pcre2_get_ovector_pointer(data_);
            const size_t end = bounds[1];
            emit(bounds[0]);
            emit(end);
        }
        emit(text.size());
    }

  private:
    pcre2_match_data * data_;
    pcre2_match_context * context_;
};

}  // namespace

void pretokenizer::free_code::operator()(pcre2_real_code_8 * code) const {
    pcre2_code_free(code);
}

pretokenizer::pretokenizer(const std::string & name, uint32_t match_limit) : match_limit_(match_limit) {
    const pretokenizer_rules & rules = pretokenizer_rules_of(name);
    for (const char * expression : rules.expressions) {
        if (expression) {
            expressions_.emplace_back(compile(expression));
        }
    }
    ignores_merges_ = rules.ignores_merges;
}

std::vector<std::string_view> pretokenizer::split(std::string_view text) const {
    matcher match(match_limit_);
    std::vector<piece> pieces = cut_at_bad_bytes(text);
    for (const auto & expression : expressions_) {
        std::vector<piece> finer;
        finer.reserve(pieces.size());
        for (const piece & coarse : pieces) {
            if (coarse.is_utf8) {
                match.cut(expression.get(), coarse.text, finer);
            } else {
                finer.push_back(coarse);
            }
        }
        pieces = std::move(finer);
    }
    std::vector<std::string_view> words;
    words.reserve(pieces.size());
    for (const piece & word : pieces) {
        words.push_back(word.text);
    }
    return words;
}

}  // namespace livekv
