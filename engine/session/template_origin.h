#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "session/chat_template.h"

namespace livekv {

class tokenizer;

// What a template says by itself: conversations are read with these words, and hold them too.
struct template_words {
    std::set<std::string> keys;      // behind a dot, or written out: what it may look up in an object
    std::set<std::string> literals;  // texts written out in it, of two bytes and more
};

// The characters that control tokens are made of. user_defined: tokens that count as such.
struct control_alphabet {
    control_alphabet(const tokenizer & tok, std::span<const int32_t> user_defined);
    bool in_any(std::string_view text) const;  // whether text has one of them

    std::vector<std::string> tokens;
    std::set<char32_t> all;
    // Of each control token one or more: what is no letter, digit, white space nor quoted in JSON, where it has such.
    std::set<char32_t> marks;
};

// A conversation in other characters, so that what a template writes tells where each came from: characters of what is
// given become private-use ones that neither the conversation nor the template has. Each stays one character.
class disguise {
  public:
    enum class kind {
        none,      // as it is
        all,       // every character but white space, quotes and backslashes that no control token has
        control,   // those that control tokens have
        marks,     // control_alphabet::marks
        most,      // of these not the ones in texts that the template itself has, such as </think>
        harmless,  // marks; and other letters and digits in place of those there are, but for the template's own words
    };

    // taken: private-use characters that occur otherwise. The three must outlive this object.
    disguise(kind which, const control_alphabet & control, const template_words & words,
             const std::set<char32_t> & taken);

    std::string text(std::string_view given);
    std::string key(const std::string & given);  // as text, but for the keys that the template knows
    bool is_full() const { return full_; }       // there were more characters than private-use ones: not to be used

    std::string back(std::string_view disguised) const;  // not of harmless
    chat_text pieces(std::string_view disguised) const;  // back, by origin

  private:
    size_t kept_at(std::string_view rest) const;  // bytes of a word of the template's that rest begins with
    char32_t stand_in(char32_t c);
    bool is_hidden(char32_t c, std::string_view bytes) const;

    kind kind_;
    const control_alphabet & control_;
    const template_words & words_;
    const std::set<char32_t> & taken_;
    std::array<std::vector<std::string_view>, 256> kept_;  // by first byte, longest first
    std::unordered_map<char32_t, char32_t> to_;
    std::unordered_map<char32_t, char32_t> from_;
    char32_t next_ = 0xE000;
    bool full_ = false;
};

// The private-use characters of a text, added to taken.
void add_private_use(std::string_view text, std::set<char32_t> & taken);

}  // namespace livekv
