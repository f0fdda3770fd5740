#pragma once

#include <string>
#include <vector>

namespace livekv {

// A way to store keys and values, by name. What makes its caches: run/make_cache.h.
struct kv_policy {
    const char * name;
    bool compresses;             // seals chunks; the others read the chunk's size alone of all options
    const char * row_type = "";  // of the others: what a token's keys and values are stored as
    bool rotated = false;        // before that
    bool streams = false;        // compresses as Streaming KVQuant, not as livekv
    bool guides = false;         // gives a prompt's tokens widths by what a guide makes of them
    bool is_kivi = false;        // compresses as KIVI
    bool is_fastkv = false;      // keeps of a prompt what its last tokens look at, as FastKV
    bool is_finch = false;       // keeps of a context what a question looks at, as Finch
    bool is_kvquant = false;     // compresses by a calibration, as KVQuant

    // option: a field of kv_options, or preset.
    bool reads(const std::string & option) const;
    bool has_preset(const std::string & preset) const;
    // Whether sequences that begin alike may have chunks in common: not where these depend on the whole prompt's
    // length, on a question, or on a file that may become another.
    bool shares() const { return compresses && !guides && !is_fastkv && !is_finch && !is_kvquant; }
    // Whether a sequence may be written to a file: not where heads, or layers, keep different tokens, nor where it goes
    // on as another file says.
    bool saves() const { return compresses && !is_fastkv && !is_finch && !is_kvquant; }
};

// The policies, in the order help shows them.
const std::vector<kv_policy> & kv_policies();
std::vector<std::string> kv_policy_names();

// Throws livekv::error for a name that is none of them.
const kv_policy & find_kv_policy(const std::string & name);

// Throws kv_option_error when the policy does not read the option, a field of kv_options.
void require_read(const std::string & policy, const std::string & option);

// "livekv", or several names with commas.
std::string policies_that_read(const std::string & option);

// The names of those that compress, that share, or that may be saved, as a sentence has them: "a, b and c".
std::string compressing_policies();
std::string sharing_policies();
std::string saving_policies();

}  // namespace livekv
