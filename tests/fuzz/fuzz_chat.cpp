// A chat template and a conversation, parted by the byte 0x1E: the template's text (of a file's own, or a family's
// name), then a message each: a letter for its role, its content, and behind a byte 0x1F what else there is of it, as
// JSON. Reading and running the template may throw livekv::error, no more; and no message becomes a control token.

#include <cstdint>
#include <string>
#include <vector>

#include "../fixtures/small_vocab.h"
#include "model/gguf_file.h"
#include "model/tokenizer.h"
#include "session/chat_template.h"
#include "target.h"

namespace {

std::vector<std::string> split(const std::string & text, char at) {
    std::vector<std::string> parts = {""};
    for (const char c : text) {
        if (c == at) {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    return parts;
}

livekv::tokenizer make_tokenizer() {
    const std::vector<fixtures::token> tokens = {{"<unk>", 2},      {"<s>", 3},   {"</s>", 3},        {"<|im_end|>", 3},
                                                 {"\u2581", 1, -1}, {"a", 1, -2}, {"\u2581a", 1, -3}, {"<mark>", 4}};
    fixtures::vocab_builder vocab("llama", tokens);
    gguf_set_val_u32(vocab.gguf, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(vocab.gguf, "tokenizer.ggml.eos_token_id", 2);
    fixtures::memory_file file;
    vocab.write(file);
    return livekv::tokenizer(livekv::gguf_file(file.path()));
}

livekv::chat_message message_of(const std::string & record) {
    static const char * const roles[] = {"user",    "assistant", "system", "tool",      "developer",
                                         "ipython", "function",  "nobody", "<|im_end|>"};
    const std::vector<std::string> parts = split(record, '\x1F');
    const size_t letter = std::string("uastdifnx").find(parts[0].empty() ? 'u' : parts[0][0]);
    livekv::chat_message m;
    m.role = roles[letter == std::string::npos ? 0 : letter];
    m.content = parts[0].empty() ? "" : parts[0].substr(1);
    m.more = parts.size() > 1 ? parts[1] : "";
    return m;
}

livekv::chat_template template_of(const livekv::tokenizer & tok, const std::string & text) {
    for (const std::string & family : livekv::chat_family_names()) {
        if (text == family) {
            return livekv::chat_template(tok, livekv::chat_family_named(family));
        }
    }
    livekv::detect_chat_family(text, tok);
    return livekv::chat_template(tok, text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static const livekv::tokenizer tok = make_tokenizer();
    const std::vector<std::string> records = split(std::string(reinterpret_cast<const char *>(data), size), '\x1E');
    std::vector<livekv::chat_message> messages;
    std::string variables;
    for (size_t i = 1; i < records.size() && i < 9; ++i) {
        if (records[i].starts_with('v')) {
            variables = records[i].substr(1);
        } else {
            messages.push_back(message_of(records[i]));
        }
    }
    const fuzz::limits limit(size);
    try {
        const livekv::chat_template format = template_of(tok, records[0]);
        const livekv::chat_text text = format.render(messages, /*add_generation_prompt=*/size % 2 == 0, variables);
        format.encode(text);
        format.encode(livekv::behind(text, size / 2), 5);
        format.without_bos(text);
        for (const livekv::chat_piece & piece : text) {
            for (const int32_t id : format.encode({piece}, 5)) {
                fuzz::require(!piece.from_message || !tok.is_control(id), "a message became a control token");
            }
        }
    } catch (const livekv::error & problem) {
        fuzz::expected(problem, data, size);
    }
    return 0;
}
