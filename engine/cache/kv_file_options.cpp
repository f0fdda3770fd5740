#include <algorithm>
#include <array>

#include "cache/kv_file_names.h"
#include "error.h"

namespace livekv::kv_names {

namespace {

// Options there were once, and the value that turns them off.
struct gone {
    const char * name;
    const char * off;
};
constexpr std::array options_gone = {gone{"scale-search", "off"}, gone{"tail-chunks", "0"}};

}  // namespace

void read_options(const option_table & table, const gguf_file & file, int version) {
    std::vector<std::string> left = file.keys_with(option_prefix);
    for (const livekv::option & o : table.all()) {
        if (o.initial.empty()) {  // shapes nothing, or several others
            continue;
        }
        const std::string key = option(o.name);
        const std::string value = o.since > version ? file.find_string(key).value_or(o.unspoken) : file.get_string(key);
        o.set(value);
        left.erase(std::remove(left.begin(), left.end(), key), left.end());
    }
    for (const std::string & key : left) {
        const std::string name = key.substr(std::string(option_prefix).size());
        const std::string value = file.get_string(key);
        const auto known = std::find_if(options_gone.begin(), options_gone.end(),
                                        [&](const gone & g) { return name == g.name; });
        if (known == options_gone.end()) {
            fail("it was made with the option ", name, " ", value, ", which this livekv does not have");
        }
        if (value != known->off) {
            fail("it was made with the option ", name, " ", value, ", which is gone");
        }
    }
}

}  // namespace livekv::kv_names
