// What a file says of its tokenizer is done, and what contradicts itself is an error.

#include <algorithm>
#include <limits>

#include "check.h"
#include "error.h"
#include "small_tokenizers.h"

using namespace small_tokenizers;

TEST(every_listed_id_ends_a_text_and_the_highest_number_is_none) {
    const tokenizer tok = spm([](gguf_context * g) {
        const std::vector<int32_t> ends = {2, 5, 6, 7};
        gguf_set_arr_data(g, "livekv.tokenizer.eos_token_ids", GGUF_TYPE_INT32, ends.data(), ends.size());
        gguf_set_val_u32(g, "tokenizer.ggml.eot_token_id", UINT32_MAX);
        gguf_set_val_u32(g, "tokenizer.ggml.bos_token_id", UINT32_MAX);
        gguf_set_val_bool(g, "tokenizer.ggml.add_bos_token", false);
    });
    for (const int32_t id : {2, 5, 6, 7}) {
        CHECK(tok.is_end_of_generation(id));
    }
    CHECK(!tok.is_end_of_generation(8));
    CHECK_EQ(tok.bos(), -1);
}

TEST(a_space_is_put_in_front_where_the_scheme_says) {
    const auto with = [](const char * scheme) {
        return spm([=](gguf_context * g) { gguf_set_val_str(g, "livekv.tokenizer.prepend_scheme", scheme); });
    };
    check_pieces(pieces(with("never"), "a</s>a", true), {"a", "</s>", "a"});
    check_pieces(pieces(with("first"), "a</s>a", true), {" a", "</s>", "a"});
    check_pieces(pieces(with("each"), "a</s>a", true), {" a", "</s>", " a"});
    check_pieces(pieces(with("each"), " a</s> a", true), {" a", "</s>", " a"});
    check_pieces(pieces(with("always"), " a</s>a", true), {"  ", "a", "</s>", " a"});
    // Behind another text: no space, but for the model's rule behind a control token.
    const tokenizer first = with("first");
    CHECK_EQ(show(encode(first, {{"a", false}}, first.find("b"))), show({first.find("a")}));
    CHECK_EQ(show(encode(first, {{"a", false}}, first.eos())), show({first.find("a")}));
    CHECK_EQ(show(encode(first, {{"a", false}}, first.bos())), show({first.find("▁a")}));
    CHECK_EQ(first.decode({1, first.find("▁a"), 2, first.find("▁a")}, true), "<s>a</s> a");
    CHECK_ERROR(with("sometimes"), "is 'sometimes', supported are never, first, each and always");
}

TEST(flags_of_added_tokens_are_checked) {
    const auto with = [](std::vector<int32_t> ids, std::vector<int32_t> flags) {
        return spm([=](gguf_context * g) {
            gguf_set_arr_data(g, "livekv.tokenizer.added_tokens", GGUF_TYPE_INT32, ids.data(), ids.size());
            gguf_set_arr_data(g, "livekv.tokenizer.added_token_flags", GGUF_TYPE_INT32, flags.data(), flags.size());
        });
    };
    const int32_t mark = spm().find("<mark>");
    check_pieces(pieces(with({mark}, {1}), "a  <mark>  b"), {" a", "<mark>", "  ", " ", "b"});
    check_pieces(pieces(with({mark}, {2}), "a <mark>  </s>", true), {" a", " ", "<mark>", " ", "<", "/", "s>"});
    CHECK_ERROR(with({mark}, {32}), "has 32, expected 0 to 31");
    CHECK_ERROR(with({mark}, {0, 0}), "has 2 values, expected 1");
    CHECK_ERROR(with({5000}, {0}), "has 5000, expected less than");
}

// As a file of Hugging Face has it that lists a piece as a special word: the piece still takes part in merges.
TEST(a_piece_that_is_a_control_token_joins_others_and_comes_of_no_text) {
    static constexpr int32_t single_word_of_the_vocabulary = 4 + 16;
    const auto with_control = [](const std::string & text) {
        std::vector<fixtures::token> tokens = fixtures::spm_tokens();
        const auto found = std::ranges::find(tokens, text, &fixtures::token::text);
        const auto id = static_cast<int32_t>(found - tokens.begin());
        found->type = 3;
        fixtures::vocab_builder vocab("llama", tokens);
        std::vector<const char *> merges = {"a b", "ab c"};
        gguf_set_arr_str(vocab.gguf, "livekv.tokenizer.merges", merges.data(), merges.size());
        gguf_set_val_str(vocab.gguf, "livekv.tokenizer.prepend_scheme", "never");
        gguf_set_arr_data(vocab.gguf, "livekv.tokenizer.added_tokens", GGUF_TYPE_INT32, &id, 1);
        gguf_set_arr_data(vocab.gguf, "livekv.tokenizer.added_token_flags", GGUF_TYPE_INT32,
                          &single_word_of_the_vocabulary, 1);
        return load(vocab);
    };
    const tokenizer of_one = with_control("b");
    const int32_t byte_b = of_one.find("<0x62>");
    for (const bool parse_special : {false, true}) {
        CHECK_EQ(show(of_one.encode("abc", false, parse_special)), show({of_one.find("abc")}));
        CHECK_EQ(show(of_one.encode("cb", false, parse_special)), show({of_one.find("c"), byte_b}));
    }
    CHECK_EQ(show(of_one.encode("b", false, true)), show({of_one.find("b")}));
    CHECK_EQ(show(of_one.encode("b", false, false)), show({byte_b}));
    const tokenizer of_two = with_control("ab");
    CHECK_EQ(show(of_two.encode("abc", false, false)), show({of_two.find("abc")}));
    CHECK_EQ(show(of_two.encode("cab", false, true)), show({of_two.find("c"), of_two.find("a"), of_two.find("b")}));
    CHECK_EQ(show(of_two.encode("ab", false, false)), show({of_two.find("a"), of_two.find("b")}));
}

TEST(phi3s_tokens_take_the_white_space_behind_them_along) {
    const auto with = [](std::vector<fixtures::token> more) {
        std::vector<fixtures::token> tokens = fixtures::spm_tokens();
        tokens.insert(tokens.end(), more.begin(), more.end());
        fixtures::vocab_builder vocab("llama", tokens);
        gguf_set_val_bool(vocab.gguf, "tokenizer.ggml.add_space_prefix", false);
        return load(vocab);
    };
    const tokenizer phi3 =
        with({{"<|user|>", 3}, {"<|assistant|>", 3}, {"<|end|>", 3}, {"<|endoftext|>", 3}, {"<|tool|>", 4}});
    check_pieces(pieces(phi3, "<|user|>\n a<|end|> \n<|tool|>\t<|endoftext|> b", true),
                 {"<|user|>", "a", "<|end|>", "<|tool|>", "<|endoftext|>", " ", "b"});
    check_pieces(pieces(phi3, "<s> a", true), {"<s>", " a"});
    const tokenizer other = with({{"<|user|>", 3}, {"<|end|>", 3}});  // one of its marks is missing
    check_pieces(pieces(other, "<|user|>\na", true), {"<|user|>", "\n", "a"});
}

TEST(marks_of_turns_are_control_tokens_whatever_the_file_calls_them) {
    const auto with = [](int32_t type, bool own_keys) {
        std::vector<fixtures::token> tokens = fixtures::bpe_tokens();
        tokens.push_back({"<|im_start|>", type});
        tokens.push_back({"<end_of_turn>", type});
        tokens.push_back({"</s>", type});
        fixtures::vocab_builder vocab("gpt2", tokens);
        vocab.set_merges(fixtures::bpe_merges());
        if (own_keys) {
            const auto n = static_cast<int32_t>(tokens.size());
            const std::vector<int32_t> added = {n - 3, n - 2, n - 1}, flags = {0, 0, 0};
            gguf_set_arr_data(vocab.gguf, "livekv.tokenizer.added_tokens", GGUF_TYPE_INT32, added.data(), 3);
            gguf_set_arr_data(vocab.gguf, "livekv.tokenizer.added_token_flags", GGUF_TYPE_INT32, flags.data(), 3);
        }
        return load(vocab);
    };
    const tokenizer tok = with(4, false);
    for (const char * text : {"<|im_start|>", "<end_of_turn>"}) {
        CHECK(tok.is_control(tok.find(text)));
        CHECK(pieces(tok, text).size() > 1);  // as text
        check_pieces(pieces(tok, text, true), {text});
    }
    CHECK(tok.is_end_of_generation(tok.find("<end_of_turn>")));
    CHECK(!tok.is_control(tok.find("</s>")));  // struck out, in HTML and in Gemma's vocabulary
    CHECK(!tok.is_end_of_generation(tok.find("</s>")));
    const tokenizer normal = with(1, false);
    CHECK(!normal.is_control(normal.find("<|im_start|>")));
    const tokenizer own = with(4, true);  // says of each token what Hugging Face does with it
    CHECK(!own.is_control(own.find("<|im_start|>")));
}

TEST(what_texts_begin_and_end_with_is_a_control_token_whatever_the_file_calls_it) {
    std::vector<fixtures::token> tokens = fixtures::bpe_tokens();
    const auto n = static_cast<uint32_t>(tokens.size());
    const std::vector<std::string> texts = {"[BOS]", "[EOS]", "[EOT]", "[EOM]"};
    for (const std::string & text : texts) {
        tokens.push_back({text, 4});
    }
    fixtures::vocab_builder vocab("gpt2", tokens);
    vocab.set_merges(fixtures::bpe_merges());
    const char * const names[] = {"bos", "eos", "eot", "eom"};
    for (uint32_t i = 0; i < 4; ++i) {
        gguf_set_val_u32(vocab.gguf, ("tokenizer.ggml." + std::string(names[i]) + "_token_id").c_str(), n + i);
    }
    const tokenizer tok = load(vocab);
    for (const std::string & text : texts) {
        CHECK(tok.is_control(tok.find(text)));
        CHECK(pieces(tok, text).size() > 1);  // as text
        check_pieces(pieces(tok, text, true), {text});
    }
}

TEST(families_put_bos_in_front_where_the_file_does_not_say) {
    const auto first = [](const char * pre) {
        const tokenizer tok = bpe(pre, [](gguf_context * g) { gguf_set_val_u32(g, "tokenizer.ggml.bos_token_id", 5); });
        return tok.encode("a", true, false).front();
    };
    for (const char * pre : {"llama-bpe", "falcon3", "tekken"}) {
        CHECK_EQ(first(pre), 5);
    }
    for (const char * pre : {"gpt-2", "qwen2", "dbrx", "gpt-4o"}) {
        CHECK(first(pre) != 5);
    }
}

TEST(a_text_is_composed_where_the_file_says_so) {
    const tokenizer nfc = bpe("qwen2", [](gguf_context * g) { gguf_set_val_bool(g, "livekv.tokenizer.nfc", true); });
    check_pieces(pieces(nfc, "e\u0301"), {"é"});
    check_pieces(pieces(nfc,
                        "\xFF"
                        "e\u0301\xFE"),
                 {"\xFF", "é", "\xFE"});
    CHECK(pieces(bpe("qwen2"), "e\u0301").size() == 3);
    // A message that begins with a mark does not change what the template wrote in front of it.
    const ids apart = encode(nfc, {{"e", true}, {"\u0301", false}});
    CHECK_EQ(nfc.decode(apart, true), "e\u0301");
}

TEST(the_file_says_whether_words_are_taken_whole) {
    const auto with = [](const char * pre, bool ignore) {
        return bpe(pre, [=](gguf_context * g) { gguf_set_val_bool(g, "livekv.tokenizer.ignore_merges", ignore); });
    };
    check_pieces(pieces(with("gpt-2", true), "zyx"), {"zyx"});
    check_pieces(pieces(with("llama-bpe", false), "zyx"), {"z", "y", "x"});
}

TEST(inconsistent_files_are_errors) {
    const auto set = [](const char * key, auto setter) { return [=](gguf_context * g) { setter(g, key); }; };
    const auto text = [](const char * value) {
        return [=](gguf_context * g, const char * key) { gguf_set_val_str(g, key, value); };
    };
    const auto remove = [](gguf_context * g, const char * key) { gguf_remove_key(g, key); };
    CHECK_ERROR(spm(set("tokenizer.ggml.model", text("unigram"))), "supported are llama and gpt2");
    CHECK_ERROR(spm(set("tokenizer.ggml.precompiled_charsmap", text("x"))), "precompiled_charsmap is not supported");
    CHECK_ERROR(bpe("whisper"), "'whisper' is not supported, supported are default, gpt-2, phi-2, mpt, olmo,");
    for (const char * key : {"model", "tokens", "scores", "token_type"}) {
        const std::string full = std::string("tokenizer.ggml.") + key;
        CHECK_ERROR(spm(set(full.c_str(), remove)), full + "' is missing");
    }
    CHECK_ERROR(bpe("gpt-2", set("tokenizer.ggml.merges", remove)), "tokenizer.ggml.merges' is missing");
    const float score = std::numeric_limits<float>::quiet_NaN();
    CHECK_ERROR(
        spm([&](gguf_context * g) { gguf_set_arr_data(g, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, &score, 1); }),
        "scores has 1 values");
    CHECK_ERROR(spm([&](gguf_context * g) {
                    const std::vector<float> scores(fixtures::spm_tokens().size(), score);
                    gguf_set_arr_data(g, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), scores.size());
                }),
                "score of token 0 is not a number");
    CHECK_ERROR(spm([&](gguf_context * g) {
                    const std::vector<int32_t> types(fixtures::spm_tokens().size(), 7);
                    gguf_set_arr_data(g, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
                }),
                "token 0 has the unknown type 7");
    CHECK_ERROR(spm([&](gguf_context * g) {
                    const std::vector<int32_t> types(fixtures::spm_tokens().size(), 6);
                    gguf_set_arr_data(g, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
                }),
                "the byte token 0 is '<unk>'");
    CHECK_ERROR(spm([](gguf_context * g) { gguf_set_val_u32(g, "tokenizer.ggml.eos_token_id", 5000); }),
                "is 5000, expected less");
    CHECK_ERROR(bpe("gpt-2", [](gguf_context * g) { gguf_set_val_bool(g, "tokenizer.ggml.add_eos_token", true); }),
                "eos_token_id is missing");
    const auto merges = [](const char * merge) {
        return [=](gguf_context * g) { gguf_set_arr_str(g, "tokenizer.ggml.merges", std::vector{merge}.data(), 1); };
    };
    CHECK_ERROR(bpe("gpt-2", merges("ab")), "merge 0 is 'ab'");
    CHECK_ERROR(bpe("gpt-2", merges("a ")), "merge 0 is 'a '");
    CHECK_ERROR(bpe("gpt-2", merges("a q")), "needs the token 'aq'");
}

TEST_MAIN
