#include "policy/saved_options.h"

#include <algorithm>
#include <array>

#include "error.h"
#include "policy/kv_option_table.h"

namespace livekv {

namespace {

// Options there were once, and the value that turns them off.
struct gone {
    const char * name;
    const char * off;
};
constexpr std::array options_gone = {gone{"scale-search", "off"}, gone{"tail-chunks", "0"}};

}  // namespace

kv_texts texts_of(kv_options options) {
    kv_texts texts;
    option_table table;
    declare_kv_options(table, options, /*dashes=*/"", /*with_policy=*/true);
    for (const option & o : table.all()) {
        if (!o.initial.empty() && o.since != in_no_file) {  // else it shapes nothing, or several others
            texts[o.name] = o.initial;
        }
    }
    return texts;
}

kv_options options_from(const kv_texts & texts, uint32_t version) {
    kv_options options;
    option_table table;
    declare_kv_options(table, options, /*dashes=*/"", /*with_policy=*/true);
    read_saved_options(table, texts, version);
    options.check();
    return options;
}

void read_saved_options(const option_table & table, kv_texts texts, uint32_t version) {
    for (const option & o : table.all()) {
        if (o.initial.empty()) {
            continue;
        }
        const auto found = texts.find(o.name);
        if (found == texts.end() && o.since <= static_cast<int>(version)) {
            fail("its option '", o.name, "' is missing");
        }
        o.set(found == texts.end() ? o.unspoken : found->second);
        if (found != texts.end()) {
            texts.erase(found);
        }
    }
    for (const auto & [name, value] : texts) {
        const auto known = std::find_if(options_gone.begin(), options_gone.end(),
                                        [&, &wanted = name](const gone & g) { return g.name == wanted; });
        if (known == options_gone.end()) {
            fail("it was made with the option ", name, " ", value, ", which this livekv does not have");
        }
        if (value != known->off) {
            fail("it was made with the option ", name, " ", value, ", which is gone");
        }
    }
}

}  // namespace livekv
