#include "session/template_tokens.h"

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include "error.h"

namespace livekv {

namespace {

using jinja::token;

bool is_name(const token & t, std::string_view name) {
    return t.t == token::identifier && t.value == name;
}

bool is_operator(const token & t, char c) {
    return t.t == token::multiplicative_binary_operator && t.value.size() == 1 && t.value[0] == c;
}

void check_numbers(const std::vector<token> & tokens) {
    for (const token & t : tokens) {
        int64_t n = 0;
        const size_t digits = t.value.starts_with('+') ? 1 : 0;
        if (t.t == token::numeric_literal &&
            std::from_chars(t.value.data() + digits, t.value.data() + t.value.size(), n).ec != std::errc()) {
            fail("the model's chat template cannot be read: it has the number ", t.value,
                 ", which 64 bits do not hold");
        }
    }
}

void join_operators(std::vector<token> & tokens) {
    std::vector<token> joined;
    for (token & t : tokens) {
        const token * before = joined.empty() ? nullptr : &joined.back();
        const bool follows = before && before->pos + 1 == t.pos;
        if (follows && is_operator(t, '/') && is_operator(*before, '/')) {
            joined.back().value = "//";
            continue;
        }
        if (follows && is_operator(t, '*') && is_operator(*before, '*')) {
            fail("the model's chat template cannot be read: it has '**', which is not done here");
        }
        joined.push_back(std::move(t));
    }
    tokens = std::move(joined);
}

// Behind a word of the language, which is no value, a sign is that of the number. The lexer takes the word for a name.
void find_signs(std::vector<token> & tokens) {
    for (size_t i = 1; i < tokens.size(); ++i) {
        const auto follows = [&](std::string_view word) { return is_name(tokens[i - 1], word); };
        const bool is_sign = tokens[i].t == token::additive_binary_operator && tokens[i].value != "~";
        if (is_sign && (follows("and") || follows("or") || follows("if") || follows("elif") || follows("else") ||
                        follows("in") || follows("not"))) {
            tokens[i].t = token::unary_operator;
        }
    }
}

// Marks what goes on with a comparison. Behind a mark "in" and "not in" are operators of the parser's other kind.
void mark_chains(std::vector<token> & tokens) {
    std::vector<token> marked;
    std::vector<bool> compares = {false};  // within each bracket: there is a comparison to go on with
    bool is_loop_head = false;             // its first "in" is no operator
    for (size_t i = 0; i < tokens.size(); ++i) {
        token t = tokens[i];
        const auto behind = [&](std::string_view name) { return i > 0 && is_name(tokens[i - 1], name); };
        const bool names_test = behind("is") || (i > 1 && behind("not") && is_name(tokens[i - 2], "is")) ||
                                (i > 0 && tokens[i - 1].t == token::dot);
        bool is_comparison = t.t == token::comparison_binary_operator;
        if (t.t == token::open_statement || t.t == token::open_expression) {
            compares = {false};
            is_loop_head = t.t == token::open_statement && i + 1 < tokens.size() && is_name(tokens[i + 1], "for");
        } else if (t.t == token::open_paren || t.t == token::open_square_bracket || t.t == token::open_curly_bracket) {
            compares.push_back(false);
        } else if (t.t == token::close_paren || t.t == token::close_square_bracket ||
                   t.t == token::close_curly_bracket) {
            if (compares.size() > 1) {
                compares.pop_back();
            }
        } else if (t.t == token::comma || t.t == token::colon || t.t == token::equals ||
                   (!names_test && (is_name(t, "and") || is_name(t, "or") || is_name(t, "if") || is_name(t, "else")))) {
            compares.back() = false;
        } else if (is_name(t, "in") && !names_test) {
            is_comparison = !is_loop_head;
            is_loop_head = false;
        }
        if (!is_comparison) {
            marked.push_back(std::move(t));
            continue;
        }
        if (compares.back()) {
            if (is_name(t, "in") && behind("not")) {
                marked.pop_back();
                t.value = "not in";
            }
            t = {token::comparison_binary_operator, std::string(chained) + t.value, t.pos};
        }
        compares.back() = true;
        marked.push_back(std::move(t));
    }
    tokens = std::move(marked);
}

// The lexer takes the first character for white space before a block. Behind an expression it looks no further back,
// and so does not see either that what stands before a first line's block is white space.
std::string with_opening(const std::string & source) {
    const auto begins = [&](size_t at, std::string_view marks) {
        return at + 1 < source.size() && source[at] == '{' && marks.find(source[at + 1]) != marks.npos;
    };
    const size_t n_blanks = std::min(source.find_first_not_of(" \t"), source.size());
    if (begins(n_blanks, "%#")) {
        return source.substr(n_blanks);
    }
    return begins(0, "{") ? source : "{{''}}" + source;
}

}  // namespace

jinja::lexer_result template_tokens(std::string source) {
    if (source.ends_with('\r')) {  // a line break as any other, of which the lexer takes the last away
        source.back() = '\n';
    }
    jinja::lexer_result read = jinja::lexer().tokenize(with_opening(source));
    check_numbers(read.tokens);
    join_operators(read.tokens);
    find_signs(read.tokens);
    mark_chains(read.tokens);
    return read;
}

}  // namespace livekv
