#include "model/pretokenizer_families.h"

#include "error.h"

namespace livekv {

namespace {

// \s of the published expressions is Unicode's White_Space; PCRE2's own \s also takes U+180E.
#define SPACE R"(\p{White_Space})"
#define NO_SPACE R"(\P{White_Space})"

#define CONTRACTION R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
#define LETTERS R"([^\r\n\p{L}\p{N}]?\p{L}+)"
#define UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define SPACES SPACE "+(?!" NO_SPACE ")|" SPACE "+"
#define LINES_AND_SPACES SPACE R"(*[\r\n]+|)" SPACES
#define MARKS " ?[^" SPACE R"(\p{L}\p{N}]+)"

// Words whose letters begin with capitals, then words that have no capital behind a small letter.
#define CASED_WORDS(suffix) \
    R"([^\r\n\p{L}\p{N}]?)" UPPER "*" LOWER "+" suffix R"(|[^\r\n\p{L}\p{N}]?)" UPPER "+" LOWER "*" suffix "|"

constexpr const char * gpt2_words = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|)" MARKS "|" SPACES;
constexpr const char * digit = R"(\p{N})";

constexpr const char * llama3_words = CONTRACTION "|" LETTERS R"(|\p{N}{1,3}|)" MARKS R"([\r\n]*|)" LINES_AND_SPACES;
constexpr const char * qwen2_words = CONTRACTION "|" LETTERS R"(|\p{N}|)" MARKS R"([\r\n]*|)" LINES_AND_SPACES;
constexpr const char * qwen35_words =
    CONTRACTION R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^)" SPACE R"(\p{L}\p{M}\p{N}]+[\r\n]*|)" LINES_AND_SPACES;
constexpr const char * seed_words = CONTRACTION "|" LETTERS R"(|\p{N}|)" MARKS "|" LINES_AND_SPACES;
constexpr const char * tekken_words = CASED_WORDS("") R"(\p{N}|)" MARKS R"([\r\n/]*|)" LINES_AND_SPACES;
constexpr const char * gpt4o_words =
    CASED_WORDS(CONTRACTION "?") R"(\p{N}{1,3}|)" MARKS R"([\r\n/]*|)" LINES_AND_SPACES;

constexpr pretokenizer_rules gpt2 = {{gpt2_words}};
constexpr pretokenizer_rules single_digits = {{digit, gpt2_words}};
constexpr pretokenizer_rules llama3 = {.expressions = {llama3_words}, .ignores_merges = true, .adds_bos = true};
constexpr pretokenizer_rules cl100k = {{llama3_words}};
constexpr pretokenizer_rules qwen2 = {{qwen2_words}};
constexpr pretokenizer_rules qwen35 = {{qwen35_words}};
constexpr pretokenizer_rules tekken = {.expressions = {tekken_words}, .ignores_merges = true, .adds_bos = true};
constexpr pretokenizer_rules gpt4o = {{gpt4o_words}};
constexpr pretokenizer_rules seed = {{seed_words}};
constexpr pretokenizer_rules deepseek_coder = {{R"([\r\n])", SPACE R"(?\p{L}+)", SPACE R"(?\p{P}+)",
                                                R"([\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+)", digit}};
// What the GGUF ecosystem applies to files that name no pre-tokenizer.
constexpr pretokenizer_rules unnamed = {{R"([\p{P}\$\+<=>\^~\|]+)", gpt2_words, R"(\p{N}+)", "[0-9][0-9][0-9]"}};

#undef SPACE
#undef NO_SPACE
#undef CONTRACTION
#undef LETTERS
#undef UPPER
#undef LOWER
#undef SPACES
#undef LINES_AND_SPACES
#undef MARKS
#undef CASED_WORDS

constexpr struct {
    const char * name;
    const pretokenizer_rules & rules;
} families[] = {
    {"default", unnamed},
    {"gpt-2", gpt2},
    {"phi-2", gpt2},
    {"mpt", gpt2},
    {"olmo", gpt2},
    {"jais", gpt2},
    {"gigachat", gpt2},
    {"mellum", gpt2},
    {"a.x-4.0", gpt2},
    {"exaone4", gpt2},
    {"trillion", gpt2},
    {"smollm", single_digits},
    {"starcoder", single_digits},
    {"refact", single_digits},
    {"command-r", single_digits},
    {"codeshell", single_digits},
    {"exaone", single_digits},
    {"minerva-7b", single_digits},
    {"llama-bpe", llama3},
    {"llama3", llama3},
    {"llama-v3", llama3},
    {"falcon3", llama3},
    {"pixtral", llama3},
    {"midm-2.0", llama3},
    {"lfm2", llama3},
    {"dbrx", cl100k},
    {"smaug-bpe", cl100k},
    {"glm4", cl100k},
    {"chatglm-bpe", cl100k},
    {"qwen2", qwen2},
    {"deepseek-r1-qwen", qwen2},
    {"megrez", qwen2},
    {"kormo", qwen2},
    {"stablelm2", qwen2},
    {"qwen35", qwen35},
    {"tekken", tekken},
    {"gpt-4o", gpt4o},
    {"llama4", gpt4o},
    {"kanana2", gpt4o},
    {"seed-coder", seed},
    {"deepseek-coder", deepseek_coder},
};

}  // namespace

const pretokenizer_rules & pretokenizer_rules_of(const std::string & name) {
    std::string supported;
    for (const auto & known : families) {
        if (name == known.name) {
            return known.rules;
        }
        supported += std::string(supported.empty() ? "" : ", ") + known.name;
    }
    fail("the pre-tokenizer '", name, "' is not supported, supported are ", supported);
}

}  // namespace livekv
