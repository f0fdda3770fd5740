#pragma once

#include <jinja/value.h>

#include <cstddef>
#include <cstdint>

namespace livekv {

// What the runs of a template for one conversation may take together, beside what each is given.
struct template_allowance {
    size_t bytes = size_t(24) << 20;
    size_t steps = 100000;
    bool is_spent = false;  // a run was stopped because of it
};

// What one run of a chat template may take. A template comes from a file that nobody vouches for, and the engine does
// what it says: repeat a text a billion times, count as far, put a list into itself. The bounds lie far beyond what
// published templates need. The nodes of template_nodes.h draw on the budget of their thread.
class template_budget {
  public:
    // On this thread, as long as it lives. input: what the run is given; longer conversations may take more. The stack
    // is counted from here on.
    // allowance: less what the run takes when it ends.
    template_budget(const jinja::value & input, template_allowance & allowance);
    ~template_budget();
    template_budget(const template_budget &) = delete;
    template_budget & operator=(const template_budget &) = delete;

    static template_budget & running();

    // Each throws, as the engine's own functions do, when nothing is left.
    void step(size_t n = 1);
    // A value that was made: what it holds and others do not. Also throws for one that nests too deeply.
    void made(const jinja::value & v);
    void took(size_t n_bytes);
    // A value about to be made, of at most so many bytes.
    void require_room(double n_bytes) const;

    // The bytes of a value with all that it holds, as often as it holds it; where they pass the most a value may have,
    // or it nests too deeply, an exception.
    size_t bytes_of(const jinja::value & v);

  private:
    size_t add_bytes(const jinja::value & v, int depth, size_t sum);

    [[noreturn]] void stop(const char * why) const;

    template_allowance & allowance_;
    template_budget * outer_;
    const char * stack_;
    size_t max_value_;   // bytes of one value
    size_t bytes_left_;  // of all values that are made
    size_t steps_left_;
};

// A text's bytes with those of its parts, which are as many as what it was joined of.
size_t bytes_of_text(const jinja::string & text);

// Throws when container would hold itself, or a function that may hold it, with v in it.
void refuse_cycle(const jinja::value & container, const jinja::value & v);

}  // namespace livekv
