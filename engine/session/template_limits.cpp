#include "session/template_limits.h"

#include <jinja/lexer.h>

#include <string_view>
#include <vector>

#include "error.h"

namespace livekv {

namespace {

constexpr size_t max_tag_tokens = 1000;  // of one {{ }} or {% %}: an expression nests no deeper
constexpr int max_block_depth = 100;
constexpr int max_elifs = 500;  // each nests in the one before

// What the tag whose name is tokens[i] does to the depth of blocks.
int block_step(const std::vector<jinja::token> & tokens, size_t i) {
    std::string_view name = tokens[i].value;
    const bool closes = name.starts_with("end");
    name.remove_prefix(closes ? 3 : 0);
    if (name == "set" && !closes) {  // a block where no value is assigned in the tag
        while (++i < tokens.size() && tokens[i].t != jinja::token::close_statement) {
            if (tokens[i].t == jinja::token::equals) {
                return 0;
            }
        }
        return 1;
    }
    for (const char * block : {"if", "for", "macro", "call", "filter", "generation", "set"}) {
        if (name == block) {
            return closes ? -1 : 1;
        }
    }
    return 0;
}

}  // namespace

void limit_nesting(const jinja::lexer_result & tokens) {
    using jinja::token;
    size_t n_in_tag = 0;
    int depth = 0;
    int n_elifs = 0;
    for (size_t i = 0; i < tokens.tokens.size(); ++i) {
        const token & t = tokens.tokens[i];
        const bool is_name = i > 0 && tokens.tokens[i - 1].t == token::open_statement;
        const bool opens_tag = t.t == token::open_statement || t.t == token::open_expression;
        n_in_tag = opens_tag ? 0 : n_in_tag + 1;
        if (is_name) {
            depth += block_step(tokens.tokens, i);
            n_elifs += t.value == "elif";
        }
        if (n_in_tag > max_tag_tokens || depth > max_block_depth || n_elifs > max_elifs) {
            fail("the model's chat template cannot be read: it nests too deeply");
        }
    }
}

}  // namespace livekv
