// Tokenizers against recorded ids of real vocabularies, and their promises on small ones: every byte string comes back,
// special tokens are found only where asked for, streams give whole characters. What files say of a tokenizer:
// test_tokenizer_files.cpp.

#include <algorithm>
#include <cmath>
#include <random>

#include "check.h"
#include "error.h"
#include "model/pretokenizer.h"
#include "small_tokenizers.h"
#include "utf8.h"

using namespace small_tokenizers;
using livekv::stream_decoder;

namespace {

tokenizer real(const char * name) {
    return tokenizer(livekv::gguf_file(check::shared_path(std::string("vocab/ggml-vocab-") + name + ".gguf")));
}

void check_split(const char * pre, const std::string & text, const strings & expected) {
    const livekv::pretokenizer words(pre);
    const std::vector<std::string_view> split = words.split(text);
    check_pieces({split.begin(), split.end()}, expected);
}

// Every line of NAME.gguf.out holds the ids of one text of NAME.gguf.inp.
void check_recorded_ids(const char * name) {
    const tokenizer tok = real(name);
    const std::string base = check::shared_path(std::string("vocab/ggml-vocab-") + name + ".gguf");
    const std::string separator = "\n__ggml_vocab_test__\n";
    const std::string texts = check::read_file(base + ".inp");
    std::istringstream lines(check::read_file(base + ".out"));
    std::string line;
    size_t at = 0;
    int n_texts = 0;
    for (size_t end; (end = texts.find(separator, at)) != std::string::npos; at = end + separator.size()) {
        CHECK(static_cast<bool>(std::getline(lines, line)));
        std::istringstream numbers(line);
        ids expected;
        for (int32_t id; numbers >> id;) {
            expected.push_back(id);
        }
        const std::string text = texts.substr(at, end - at);
        CHECK_EQ(show(tok.encode(text, false, false)), show(expected));
        CHECK_EQ(tok.decode(expected, false), text);
        ++n_texts;
    }
    CHECK_EQ(n_texts, 46);
}

std::string random_bytes(std::mt19937 & rng) {
    std::string text(rng() % 40, '\0');
    for (char & c : text) c = static_cast<char>(rng());
    return text;
}

// Letters, spaces, marks and rare characters that the vocabularies treat specially, in any order.
std::string random_text(std::mt19937 & rng) {
    static const strings parts = {" ",        " ",
                                  "a",        "b",
                                  "c",        "ab",
                                  "12",       "3",
                                  "▁",        "é",
                                  "\n",       "\t",
                                  "<s>",      "<0x41>",
                                  "</s>",     "<mark>",
                                  "<unk>",    "<|eot|>",
                                  "'s",       "zyx",
                                  "我",       "😁",
                                  "\xC2\xA0", "\xE2\x96",
                                  "\x81",     "½",
                                  "Ġ",        "\xF0\x9F",
                                  "\u200D",   "\u0301",
                                  ".",        "!",
                                  "\xFF",     std::string(1, '\0')};
    std::string text;
    for (size_t n = rng() % 12; n > 0; --n) {
        text += parts[rng() % parts.size()];
    }
    return text;
}

strings edge_cases() {
    strings cases = {"",  " ",     "  ", "   ", "\n", "\t \n", "\xC3", "\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                     "▁", " ▁ ▁▁a"};
    cases.push_back(std::string(5, '\0'));
    cases.push_back(std::string(100000, 'a'));
    cases.push_back(std::string(100000, ' '));
    cases.push_back(std::string(100000, '\x80'));
    cases.push_back(std::string(50000, ' ') + "x");
    return cases;
}

std::string in_stream(const tokenizer & tok, const ids & tokens) {
    stream_decoder stream(tok, true);
    std::string text;
    for (const int32_t id : tokens) {
        const std::string part = stream.push(id);
        CHECK(!livekv::first_invalid_utf8(part));
        text += part;
    }
    return text + stream.finish();
}

void check_round_trip(const tokenizer & tok, int n_random) {
    const bool is_spm = tok.find("▁") >= 0;
    const auto check_one = [&](const std::string & given) {
        const std::string text = is_spm ? fixtures::with_marks_as_spaces(given) : given;
        const ids tokens = tok.encode(given, false, false);
        CHECK(tok.decode(tokens, false) == text);
        CHECK(in_stream(tok, tokens) == livekv::replace_invalid_utf8(text));
    };
    for (const std::string & text : edge_cases()) {
        check_one(text);
    }
    std::mt19937 rng(20240607);
    for (int i = 0; i < n_random; ++i) {
        check_one(random_bytes(rng));
        check_one(random_text(rng));
    }
}

}  // namespace

TEST(llama_sentencepiece_gives_the_recorded_ids) {
    check_recorded_ids("llama-spm");
}
TEST(llama3_bpe_gives_the_recorded_ids) {
    check_recorded_ids("llama-bpe");
}
TEST(gpt2_bpe_gives_the_recorded_ids) {
    check_recorded_ids("gpt-2");
}

TEST(every_byte_string_comes_back_from_real_vocabularies) {
    for (const char * name : {"llama-spm", "llama-bpe", "gpt-2"}) {
        check_round_trip(real(name), 500);
    }
}

TEST(every_byte_string_comes_back_from_small_vocabularies) {
    check_round_trip(spm(), 2000);
    const auto no_prefix = [](gguf_context * g) { gguf_set_val_bool(g, "tokenizer.ggml.add_space_prefix", false); };
    check_round_trip(spm(no_prefix), 2000);
    for (const char * pre :
         {"llama-bpe", "gpt-2", "smollm", "qwen2", "tekken", "gpt-4o", "deepseek-coder", "default"}) {
        check_round_trip(bpe(pre), 2000);
    }
}

TEST(sentencepiece_merges_by_score_and_falls_back_to_bytes) {
    const tokenizer tok = spm();
    check_pieces(pieces(tok, "abc"), {" ab", "c"});  // ▁a and ab score higher than abc
    check_pieces(pieces(tok, "cabc"), {" ", "c", "abc"});
    check_pieces(pieces(tok, "   "), {"    "});
    check_pieces(pieces(tok, "éa"), {" ", "éa"});
    check_pieces(pieces(tok, "ü"), {" ", "\xC3", "\xBC"});
    check_pieces(pieces(tok, "▁"), {"  "});  // the mark is a space
    check_pieces(pieces(spm({}, false), "aüb"), {" a", "<unk>", "b"});
    std::vector<fixtures::token> half = fixtures::spm_tokens(false);
    half.push_back({"<0xC3>", 6});
    check_pieces(pieces(load(fixtures::vocab_builder("llama", half)), "aüb"), {" a", "<unk>", "b"});  // not half of ü
}

TEST(bpe_merges_by_rank_inside_words) {
    check_pieces(pieces(bpe("gpt-2"), " abc 1212"), {" ab", "c", " ", "12", "12"});
    check_pieces(pieces(bpe("smollm"), "12"), {"1", "2"});
    check_pieces(pieces(bpe("gpt-2"), "zyx"), {"z", "y", "x"});
    check_pieces(pieces(bpe("llama-bpe"), "zyx"), {"zyx"});  // takes whole words that are tokens
    CHECK(bpe("llama3").encode("ab12zyx", false, false) == bpe("llama-v3").encode("ab12zyx", false, false));
}

// Expected words: the tokenizers package with the same expressions.
TEST(pretokenizers_cut_like_the_published_expressions) {
    const std::string clock = "It's 12345  o'clock,\n\n  I'LL go";
    check_split("llama-bpe", clock,
                {"It", "'s", " ", "123", "45", " ", " o", "'clock", ",\n\n", " ", " I", "'LL", " go"});
    check_split("gpt-2", clock, {"It", "'s", " 12345", " ", " o", "'", "clock", ",", "\n\n ", " I", "'", "LL", " go"});
    check_split(
        "smollm", clock,
        {"It", "'s", " ", "1", "2", "3", "4", "5", " ", " o", "'", "clock", ",", "\n\n ", " I", "'", "LL", " go"});
    check_split("qwen2", clock,
                {"It", "'s", " ", "1", "2", "3", "4", "5", " ", " o", "'clock", ",\n\n", " ", " I", "'LL", " go"});
    check_split("default", clock,
                {"It", "'", "s", " ", "123", "45", " ", " o", "'", "clock", ",", "\n\n ", " I", "'", "LL", " go"});
    const std::string sums = "a  b $5<=>x 3.14 ½\t\n";
    check_split("llama-bpe", sums, {"a", " ", " b", " $", "5", "<=>", "x", " ", "3", ".", "14", " ", "½", "\t\n"});
    check_split("default", sums, {"a", " ", " b", " ", "$", "5", "<=>", "x", " ", "3", ".", "14", " ", "½", "\t\n"});
    check_split("gpt-2", "ab\xFF\xFE cd", {"ab", "\xFF\xFE", " cd"});
}

TEST(control_tokens_are_recognised_only_on_request) {
    const tokenizer tok = spm();
    check_pieces(pieces(tok, "<s>a", true), {"<s>", " a"});
    check_pieces(pieces(tok, "<s>a", false), {" ", "<s", ">", "a"});
    check_pieces(pieces(bpe("gpt-2"), "a<|eot|>", true), {"a", "<|eot|>"});
    check_pieces(pieces(bpe("gpt-2"), "a<|eot|>", false), {"a", "<", "|", "e", "o", "t", "|", ">"});
    check_pieces(pieces(tok, "a<mark>b", false), {" a", "<mark>", " ", "b"});  // user-defined: always
    CHECK_EQ(tok.decode(tok.encode("a<mark>b<s> c", false, true), true), "a<mark>b<s> c");
}

TEST(specials_are_added_as_the_model_asks) {
    CHECK_EQ(show(spm().encode("", true, false)), "1 ");
    CHECK_EQ(show(spm().encode("", false, false)), "");
    const tokenizer with_eos = spm([](gguf_context * g) {
        gguf_set_val_bool(g, "tokenizer.ggml.add_bos_token", false);
        gguf_set_val_bool(g, "tokenizer.ggml.add_eos_token", true);
    });
    CHECK_EQ(show(with_eos.encode("", true, false)), "2 ");
    CHECK(!with_eos.adds_bos() && with_eos.adds_eos());
    CHECK(!bpe("llama-bpe").adds_bos());
    CHECK_EQ(bpe("gpt-2").bos(), -1);
    CHECK(real("llama-bpe").adds_bos() && !real("gpt-2").adds_bos());
}

TEST(parts_are_one_text_and_only_trusted_ones_hold_control_tokens) {
    const tokenizer tok = spm();
    const int32_t eos = tok.find("</s>");
    CHECK_EQ(show(encode(tok, {{"a", false}, {"bc a", false}})), show(tok.encode("abc a", false, false)));
    CHECK_EQ(show(encode(tok, {{"ab</s>c", true}})), show(tok.encode("ab</s>c", false, true)));
    CHECK_EQ(show(encode(tok, {{"ab</s>c", false}})), show(tok.encode("ab</s>c", false, false)));
    CHECK_EQ(show(encode(tok, {{"</", true}, {"s>", true}})), show(tok.encode("</s>", false, false)));
    CHECK_EQ(show(encode(tok, {{"<ma", false}, {"rk>", true}})), show({tok.find("<mark>")}));
    const ids mixed = encode(tok, {{"a</s>", false}, {"</s>", true}, {"</s>b", false}, {"</s>", true}});
    CHECK_EQ(std::count(mixed.begin(), mixed.end(), eos), 2);
    CHECK_EQ(tok.decode(mixed, true), "a</s></s></s>b</s>");
    CHECK_EQ(show(encode(tok, {})), "");
    CHECK_EQ(show(tok.encode({}, livekv::encode_options{})), "1 ");
}

TEST(where_a_text_is_cut_into_parts_does_not_matter) {
    const tokenizer tok = spm(), words = bpe("gpt-2");
    std::mt19937 rng(7);
    for (int i = 0; i < 2000; ++i) {
        const std::string text = i % 4 ? random_text(rng) : random_bytes(rng);
        const size_t a = rng() % (text.size() + 1), b = a + rng() % (text.size() - a + 1);
        const std::string_view view = text;
        const std::vector<livekv::text_part> parts = {
            {view.substr(0, a), false}, {view.substr(a, b - a), false}, {view.substr(b), false}};
        CHECK_EQ(show(encode(tok, parts)), show(tok.encode(text, false, false)));
        CHECK_EQ(show(encode(words, parts)), show(words.encode(text, false, false)));
    }
}

TEST(a_text_that_goes_on_gets_nothing_in_front) {
    const tokenizer tok = spm();
    const int32_t letter = tok.find("a");
    CHECK_EQ(show(tok.encode(std::vector<livekv::text_part>{{"b", false}}, {.behind = letter})), show({tok.find("b")}));
    CHECK_EQ(show(encode(tok, {{" a", false}}, letter)), show({tok.find("▁a")}));
    // Behind a control token a piece of text gets its space, as in the middle of one text.
    const ids behind_eos = encode(tok, {{"a", false}}, tok.eos());
    CHECK_EQ(show(behind_eos), show({tok.find("▁a")}));
    CHECK_ERROR(encode(tok, {{"a", false}}, tok.n_vocab()), "outside the vocabulary");
    const tokenizer tidy =
        spm([](gguf_context * g) { gguf_set_val_bool(g, "tokenizer.ggml.remove_extra_whitespaces", true); });
    CHECK_EQ(show(encode(tidy, {{" ", false}, {" a ", false}}, letter)), show({tidy.find("▁a")}));
}

TEST(generation_ends_at_eos_and_at_known_control_tokens) {
    const tokenizer tok = spm();
    CHECK(tok.is_end_of_generation(tok.eos()));
    CHECK(tok.is_end_of_generation(tok.find("<|im_end|>")));
    CHECK(!tok.is_end_of_generation(tok.bos()));
    CHECK(!tok.is_end_of_generation(tok.find("<mark>")));
    const tokenizer llama3 = real("llama-bpe");
    CHECK(llama3.is_end_of_generation(llama3.find("<|eot_id|>")));
}

// PCRE2 counts its own steps. An expression that tried every way to cut a run would need n times as many.
TEST(cutting_a_long_run_takes_steps_in_proportion_to_its_length) {
    for (const char * pre : {"default", "gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o",
                             "seed-coder", "deepseek-coder"}) {
        for (const std::string run :
             {"a", "A", "Aa", " ", "\n", " \n", "1", "é", "É", "=", "'", "你", "́", "Á", " a", ".\n"}) {
            for (const size_t n : {500, 2000}) {
                std::string text;
                while (text.size() < n) {
                    text += run;
                }
                const auto limit = static_cast<uint32_t>(8 * text.size() + 200);
                std::string joined;
                for (const std::string_view word : livekv::pretokenizer(pre, limit).split(text)) {
                    joined += word;
                }
                CHECK(joined == text);
            }
        }
    }
}

TEST(a_cut_that_pcre2_gives_up_is_an_error) {
    const std::string text = "some words " + std::string(1000, ' ') + "x";
    CHECK_ERROR(livekv::pretokenizer("gpt-2", /*match_limit=*/1).split(text), "match limit exceeded");
    CHECK(livekv::pretokenizer("gpt-2").split(text).size() > 2);
}

TEST(control_tokens_render_on_request_only) {
    const tokenizer tok = spm();
    CHECK_EQ(tok.token_bytes(1, false), "");
    CHECK_EQ(tok.token_bytes(1, true), "<s>");
    CHECK_EQ(tok.decode(tok.encode("a", true, false), false), "a");
    CHECK_EQ(tok.decode(tok.encode("a", true, false), true), "<s>a");
    CHECK_EQ(tok.token_bytes(tok.find("▁a"), false), " a");
}

TEST(extra_spaces_go_only_where_the_model_says_so) {
    const tokenizer tok =
        spm([](gguf_context * g) { gguf_set_val_bool(g, "tokenizer.ggml.remove_extra_whitespaces", true); });
    CHECK_EQ(tok.decode(tok.encode("  a   b ", false, false), false), "a b");
}

TEST(stream_keeps_the_space_of_a_continuation) {
    const tokenizer tok = spm();
    const int32_t word = tok.find("▁a");
    CHECK_EQ(stream_decoder(tok).push(word), " a");
    CHECK_EQ(stream_decoder(tok, true).push(word), "a");
}

TEST(stream_holds_back_unfinished_characters) {
    const tokenizer tok = spm();
    stream_decoder stream(tok);
    CHECK_EQ(stream.push(tok.find("<0xF0>")), "");
    CHECK_EQ(stream.push(tok.find("<0x9F>")), "");
    CHECK_EQ(stream.push(tok.find("<0x98>")), "");
    CHECK_EQ(stream.push(tok.find("<0x81>")), "😁");
    CHECK_EQ(stream.push(tok.find("<0x80>")), "\uFFFD");
    CHECK_EQ(stream.push(tok.find("<0xE2>")), "");
    CHECK_EQ(stream.push(tok.find("a")), "\uFFFDa");
    CHECK_EQ(stream.push(tok.find("<0xC3>")), "");
    CHECK_EQ(stream.finish(), "\uFFFD");
    CHECK_EQ(stream.finish(), "");
}

TEST(ids_outside_the_vocabulary_are_errors) {
    const tokenizer tok = spm();
    CHECK_ERROR(tok.token_bytes(-1, false), "token -1 is outside the vocabulary");
    CHECK_ERROR(tok.decode({tok.n_vocab()}, false), "outside the vocabulary");
    CHECK_ERROR(tok.is_end_of_generation(tok.n_vocab()), "outside the vocabulary");
    CHECK_ERROR(stream_decoder(tok).push(-5), "outside the vocabulary");
}

TEST_MAIN
