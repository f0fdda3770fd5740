#include "rope/rope_override.h"

#include <algorithm>
#include <sstream>

#include "rope/rope_option_fields.h"

namespace livekv {

namespace {

void check_value(const char * name, const std::string & value, const rope_words & may) {
    if (std::ranges::find(may.allowed, value) == may.allowed.end()) {
        throw rope_option_error(name, "'" + value + "' is not one of none, linear, yarn");
    }
}

template <typename T>
void check_value(const char * name, T value, const rope_range<T> & may) {
    if (!(value >= may.min && value <= may.max)) {  // NaN too
        std::ostringstream text;
        text << value << " is not in " << may.min << ".." << may.max;
        throw rope_option_error(name, text.str());
    }
}

}  // namespace

void rope_override::check() const {
    for_each_rope_option([&](const char * name, auto member, const auto & may, const char *, const char *) {
        if (this->*member) {
            check_value(name, *(this->*member), may);
        }
    });
    if (scaling == "none" && scale) {
        throw rope_option_error("rope_scale", "there is nothing to scale with rope_scaling none");
    }
    if (scaling && scaling != "yarn" && yarn_orig_ctx) {
        throw rope_option_error("yarn_orig_ctx", "only rope_scaling yarn reads it");
    }
}

void rope_override::apply(rope_params & rope) const {
    check();
    if (scaling) {
        rope.divisors.clear();
        rope.attn_factor = 1.0f;
        rope.factor = scaling == "none" ? 1.0f : rope.factor;
        rope.scaling = scaling == "none"     ? rope_scaling::none
                       : scaling == "linear" ? rope_scaling::linear
                                             : rope_scaling::yarn;
        if (scaling != "none" && !scale && rope.factor == 1.0f) {
            throw rope_option_error("rope_scaling", *scaling + " needs rope_scale: the file has no factor");
        }
    }
    if (scale) {
        if (!rope.divisors.empty()) {
            throw rope_option_error("rope_scale",
                                    "the file scales each frequency by its own factor; say rope_scaling too");
        }
        rope.factor = static_cast<float>(*scale);
        rope.scaling = rope.scaling == rope_scaling::none ? rope_scaling::linear : rope.scaling;
    }
    if (base) {
        rope.base = static_cast<float>(*base);
    }
    if (yarn_orig_ctx) {
        if (rope.scaling != rope_scaling::yarn) {
            throw rope_option_error("yarn_orig_ctx",
                                    "the file's RoPE is not scaled by YaRN; say rope_scaling yarn too");
        }
        rope.n_ctx_orig = *yarn_orig_ctx;
    }
}

}  // namespace livekv
