#include "check.h"
#include "cli/cli_options.h"
#include "options.h"

using namespace livekv;

namespace {

struct parsed {
    cli_options options;
    option_table table;
    bool wants_run = true;

    explicit parsed(std::vector<const char *> args) {
        args.insert(args.begin(), "livekv-cli");
        options.declare(table);
        wants_run = table.parse(static_cast<int>(args.size()), args.data());
    }
};

void refuses(const std::vector<const char *> & args, const std::string & part) {
    try {
        parsed p(args);
        p.options.check(p.table);
        check::report(__FILE__, __LINE__, std::string(args[0]) + " was accepted");
    } catch (const usage_error & problem) {
        if (std::string(problem.what()).find(part) == std::string::npos) {
            check::report(__FILE__, __LINE__, std::string("'") + problem.what() + "' does not say '" + part + "'");
        }
    }
}

}  // namespace

TEST(options_set_their_targets) {
    const parsed p({"-m", "a.gguf", "--predict=7", "-c", "4096", "--kv", "q8_0", "--temp", "0.5", "--ignore-eos"});
    CHECK_EQ(p.options.engine.model_path, std::string("a.gguf"));
    CHECK_EQ(p.options.n_predict, 7);
    CHECK_EQ(p.options.n_ctx, 4096);
    CHECK_EQ(p.options.engine.kv.policy, std::string("q8_0"));
    CHECK_EQ(p.options.sampling.temperature, 0.5);
    CHECK(p.options.ignore_eos);
}

TEST(sizes_are_bytes_with_units) {
    const std::vector<std::pair<const char *, int64_t>> sizes = {{"0", 0}, {"77", 77}, {"3K", 3072}, {"4G", 4LL << 30}};
    for (const auto & [typed, bytes] : sizes) {
        CHECK_EQ(parsed({"-m", "a", "-cnv", "--prefix-cache", typed}).options.prefix_cache_bytes, bytes);
    }
}

TEST(help_is_not_a_run) {
    CHECK(!parsed({"--help"}).wants_run);
}

TEST(impossible_values_are_usage_errors_that_say_what_is_possible) {
    refuses({"--kv-save", ""}, "--kv-save: there is no FILE in ''");
    refuses({"--kv-store="}, "--kv-store: there is no FOLDER in ''");
    refuses({"-p", "x"}, "no model given");
    refuses({"--nonsense"}, "unknown option '--nonsense'");
    refuses({"-m"}, "needs a value");
    refuses({"--ignore-eos=1"}, "takes no value");
    refuses({"-m", "a", "-n", "-2"}, "-1..");
    refuses({"-m", "a", "-n", "ten"}, "whole number");
    refuses({"-m", "a", "-n", "1.5"}, "whole number");
    refuses({"-m", "a", "-n", "99999999999999999999"}, "whole number");
    refuses({"-m", "a", "-t", "0"}, "1..512");
    refuses({"-m", "a", "--temp", "nan"}, "number in 0..100");
    refuses({"-m", "a", "--top-p", "1.1"}, "0..1");
    refuses({"-m", "a", "--chunk-size", "0"}, "32..4096");
    refuses({"-m", "a", "--chunk-size", "100"}, "multiple of 32");
    refuses({"-m", "a", "--kv", "q5"},
            "one of livekv, kvstream, guided, kivi, fastkv, finch, kvquant, f16, q8_0, q4_0");
    refuses({"-m", "a", "-p", "x", "-f", "y"}, "choose one");
    refuses({"-m", "a", "--system", "x"}, "needs -cnv");
    refuses({"-m", "a", "--prefix-cache", "1M"}, "it needs -cnv");
    for (const char * size : {"", "M", "-1", "1.5G", "12X", "9999999999G", "99999999999999999999"}) {
        refuses({"-m", "a", "-cnv", "--prefix-cache", size}, "is not a number of bytes");
    }
    refuses({"-m", "a", "--kv-bits", "6"}, "--kv-bits: '6' is not one or two of");
    refuses({"-m", "a", "--kv-bits", "4,4,4"}, "--kv-bits: '4,4,4'");
    refuses({"-m", "a", "--rotate", "q"}, "--rotate: 'q' is not one of none, k, v, kv");
    refuses({"-m", "a", "--sink-tokens", "600"}, "--sink-tokens: 600 is more than the chunk size");
}

TEST(options_that_the_policy_does_not_read_are_usage_errors_that_say_whose_they_are) {
    refuses({"-m", "a", "--kv", "f16", "--kv-bits", "2"},
            "--kv-bits is an option of --kv livekv, kivi, fastkv, kvquant, not of f16");
    refuses({"-m", "a", "--kv", "f16", "--kv-bits", "4"},
            "--kv-bits is an option of --kv livekv, kivi, fastkv, kvquant");  // its default
    refuses({"-m", "a", "--preset", "small", "--kv", "q8_0"},
            "--preset is an option of --kv livekv, kvstream, guided, not of q8_0");
    refuses({"-m", "a", "--kv-error", "--kv", "q4_0"}, "--kv-error is an option of");
    parsed p({"-m", "a", "--kv", "f16", "--chunk-size", "64"});
    p.options.check(p.table);
}

TEST(every_option_is_in_help_with_its_default) {
    cli_options options;
    option_table table;
    options.declare(table);
    const std::string help = table.help_text();
    for (const option & o : table.all()) {
        CHECK(help.find(o.name) != std::string::npos);
        CHECK(!o.help.empty());
        CHECK(!o.group.empty());
    }
    CHECK(help.find("default 512") != std::string::npos);
}

TEST_MAIN
