#include "session/template_limits.h"

#include <jinja/lexer.h>
#include <jinja/runtime.h>

#include <cstdlib>
#include <string_view>
#include <vector>

#include "error.h"

namespace livekv {

namespace {

constexpr size_t max_tag_tokens = 1000;  // of one {{ }} or {% %}: an expression nests no deeper
constexpr int max_block_depth = 100;
constexpr int max_elifs = 500;                 // each nests in the one before
constexpr std::ptrdiff_t max_stack = 1 << 20;  // bytes of calls within calls; threads have 8 MiB

constexpr const char * guard_name = "livekv_stack_guard";

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

void limit_nesting(jinja::lexer_result & tokens) {
    using jinja::token;
    std::vector<token> guarded;
    size_t n_in_tag = 0;
    int depth = 0;
    int n_elifs = 0;
    bool in_macro_head = false;
    for (size_t i = 0; i < tokens.tokens.size(); ++i) {
        const token & t = tokens.tokens[i];
        const bool is_name = i > 0 && tokens.tokens[i - 1].t == token::open_statement;
        const bool opens_tag = t.t == token::open_statement || t.t == token::open_expression;
        n_in_tag = opens_tag ? 0 : n_in_tag + 1;
        if (is_name) {
            in_macro_head = t.value == "macro";
            depth += block_step(tokens.tokens, i);
            n_elifs += t.value == "elif";
        }
        if (n_in_tag > max_tag_tokens || depth > max_block_depth || n_elifs > max_elifs) {
            fail("the model's chat template cannot be read: it nests too deeply");
        }
        guarded.push_back(t);
        if (in_macro_head && t.t == token::close_statement) {
            in_macro_head = false;
            for (const auto & [type, text] :
                 {std::pair(token::open_expression, "{{"), std::pair(token::identifier, guard_name),
                  std::pair(token::open_paren, "("), std::pair(token::close_paren, ")"),
                  std::pair(token::close_expression, "}}")}) {
                guarded.push_back({type, text, t.pos});
            }
        }
    }
    tokens.tokens = std::move(guarded);
}

void add_stack_guard(jinja::context & context) {
    const char here = 0;
    const char * const begin = &here;
    const auto guard = [begin](const jinja::func_args &) -> jinja::value {
        const char now = 0;
        if (std::abs(begin - &now) > max_stack) {
            throw jinja::raised_exception("its macros call each other without end");
        }
        return jinja::mk_val<jinja::value_string>(std::string());
    };
    context.set_val(guard_name, jinja::mk_val<jinja::value_func>(std::string(guard_name), guard));
}

}  // namespace livekv
