#include "sampling.h"

#include "session/sampling_fields.h"
#include "values.h"

namespace livekv {

namespace {

void read(const char * field, py::handle value, int64_t & target) {
    const auto number = whole_from(value);
    if (!number) {
        fail(field, " ", shown(value), " is not a whole number");
    }
    target = *number;
}
void read(const char * field, py::handle value, double & target) {
    const auto number = real_from(value);
    if (!number) {
        fail(field, " ", shown(value), " is not a number");
    }
    target = *number;
}

// f(field, member) for what Python can say: what the command line can.
template <typename F>
void for_each_field(F && f) {
    for_each_sampling_option([&](const char * field, auto member, const auto &, const char * flag, const char *) {
        if (flag) {
            f(field, member);
        }
    });
}

}  // namespace

sampler_params sampling_from(const py::dict & values) {
    sampler_params p;
    size_t n_read = 0;
    for_each_field([&](const char * field, auto member) {
        if (values.contains(field)) {
            read(field, values[field], p.*member);
            ++n_read;
        }
    });
    if (n_read < values.size()) {
        fail("there are sampling options among ", shown(values), " that do not exist");
    }
    p.check();
    return p;
}

py::dict sampling_defaults() {
    py::dict values;
    for_each_field([&](const char * field, auto member) { values[field] = sampler_params().*member; });
    return values;
}

}  // namespace livekv
