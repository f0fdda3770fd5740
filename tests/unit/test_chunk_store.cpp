// Prompts that any process has read are not computed again, and say what they would say anyway.

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <random>

#include "check.h"
#include "engine/engine.h"
#include "error.h"
#include "policy/kv_spec.h"
#include "saved_sequence.h"
#include "temporary_folder.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

constexpr int64_t chunk = 32;

session_params small_chunks(int64_t n_ctx = 400) {
    return params_of("livekv", chunk, n_ctx);
}

std::shared_ptr<const model> usual_model() {
    static const auto m = tiny_model();
    return m;
}

struct storing {
    std::shared_ptr<chunk_store> store;
    std::shared_ptr<engine> e;

    explicit storing(const std::string & path, uint64_t limit = chunk_store::default_limit,
                     const std::shared_ptr<const model> & m = usual_model())
        : store(std::make_shared<chunk_store>(path, limit)), e(std::make_shared<engine>(m, 1, 0, store)) {}

    // How many tokens of a prompt, which is then read, were known.
    int64_t read(const std::vector<int32_t> & tokens, const session_params & p = small_chunks()) const {
        session s(e, p);
        s.prefill(tokens);
        return s.n_reused();
    }
};

std::vector<uint8_t> saved(const session & s) {
    const temporary_file file(".kv");
    s.save(file.path());
    return kv_saved::read_bytes(file.path());
}

uint64_t bytes_in(const temporary_folder & folder) {
    uint64_t sum = 0;
    for (const std::string & name : folder.names()) {
        sum += std::filesystem::file_size(folder.file(name));
    }
    return sum;
}

// Restores what a test forbids this process to write.
class no_room {
  public:
    explicit no_room(rlim_t bytes) : old_handler_(::signal(SIGXFSZ, SIG_IGN)) {
        ::getrlimit(RLIMIT_FSIZE, &old_);
        rlimit full = old_;
        full.rlim_cur = bytes;
        ::setrlimit(RLIMIT_FSIZE, &full);
    }
    ~no_room() {
        ::setrlimit(RLIMIT_FSIZE, &old_);
        ::signal(SIGXFSZ, old_handler_);
    }

  private:
    rlimit old_ = {};
    void (*old_handler_)(int);
};

}  // namespace

TEST(what_another_process_has_read_goes_on_as_if_it_had_been_read_here) {
    struct row {
        const char * spec;
        std::function<void(kv_options &)> edit;
        int64_t n_known;     // of 300 tokens
        int64_t n_windowed;  // where layers have windows, which give parts of a long warm-up back
    };
    const auto nothing = [](kv_options &) {};
    const std::vector<row> rows = {
        {"default", nothing, 288, 288},
        {"small", nothing, 288, 288},
        {"tiny:key-feedback=off", nothing, 288, 288},
        {"kvstream", nothing, 288, 288},
        {"kivi", nothing, 288, 288},
        {"reference", nothing, 288, 288},
        {"default", [](kv_options & o) { o.warmup_chunks = 4; }, 288, 0},
        {"default", [](kv_options & o) { o.warmup_keep = true; }, 288, 288},
        {"default",
         [](kv_options & o) {
             o.warmup_chunks = 0;
             o.bypass_layers = 1;
             o.bypass_type = kv_bypass::f16;
             o.seal_decode = false;
         },
         288, 288},
        {"default", [](kv_options & o) { o.measure_error = true; }, 0, 0},
        {"default", [](kv_options & o) { o.warmup_chunks = 10; }, 0, 0},
        {"f16", nothing, 0, 0},
        {"q4_0", nothing, 0, 0},
    };
    tiny_spec windowed;
    windowed.arch = "gemma3";
    windowed.n_layer = 4;
    windowed.tied = true;
    for (const bool with_windows : {false, true}) {
        const auto m = with_windows ? tiny_model(windowed) : usual_model();
        const auto plain = std::make_shared<engine>(m, 1);
        for (const auto & [spec, edit, n_everywhere, n_windowed] : rows) {
            IN(spec, with_windows ? " with windows" : "");
            const int64_t n_known = with_windows ? n_windowed : n_everywhere;
            session_params p = small_chunks();
            p.kv = parse_kv_spec(spec);
            (p.kv.policy == "kivi" ? p.kv.residual : p.kv.chunk_size) = chunk;
            edit(p.kv);
            const temporary_folder folder;
            const std::vector<int32_t> tokens = some_tokens(300);
            storing(folder.path(), chunk_store::default_limit, m).read(tokens, p);
            for (const size_t n : {300u, 289u, 288u, 160u, 65u, 64u}) {
                IN(n, " tokens");
                const storing later(folder.path(), chunk_store::default_limit, m);
                const std::vector<int32_t> prompt(tokens.begin(), tokens.begin() + static_cast<int64_t>(n));
                session s(later.e, p);
                session expected(plain, p);
                const auto logits = last_logits(expected, prompt);
                CHECK(same_bits(last_logits(s, prompt), logits));
                CHECK_EQ(s.n_reused() == n_known, n > 288 || n_known == 0);
                CHECK(n_known > 0 || s.n_reused() == 0);
                CHECK(same_bits(decode(s, logits, 40), decode(expected, logits, 40)));
                const std::vector<int32_t> more = some_tokens(60, 8);
                CHECK(same_bits(s.prefill(more), expected.prefill(more)));
                CHECK(p.kv.policy == "f16" || p.kv.policy == "q4_0" || p.kv.measure_error ||
                      saved(s) == saved(expected));
                CHECK_EQ(later.store->counts().n_damaged + later.store->counts().n_foreign, 0);
            }
        }
    }
}

TEST(the_longer_of_what_is_in_memory_and_in_the_folder_is_taken) {
    const temporary_folder folder;
    const std::vector<int32_t> tokens = some_tokens(300);
    storing(folder.path()).read(tokens);
    const auto store = std::make_shared<chunk_store>(folder.path());
    const auto e = std::make_shared<engine>(usual_model(), 1, size_t(1) << 30, store);
    const auto read = [&](size_t n) {
        session s(e, small_chunks());
        s.prefill(std::span(tokens).first(n));
        return s.n_reused();
    };
    CHECK_EQ(read(130), 128);
    CHECK_EQ(store->counts().n_tokens_read, 128);
    CHECK_EQ(read(300), 288);
    CHECK_EQ(store->counts().n_tokens_read, 288);  // what memory had was not read again
    CHECK_EQ(read(300), 288);
    CHECK_EQ(store->counts().n_tokens_read, 288);
}

TEST(another_model_or_other_options_never_hit_whatever_a_file_is_called) {
    const temporary_folder folder;
    const std::vector<int32_t> tokens = some_tokens(300);
    storing(folder.path()).read(tokens);
    CHECK_EQ(folder.names().size(), 8u);
    const auto mine = folder.names();
    tiny_spec spec;
    spec.edit_values = [](const std::string & name, std::vector<float> & values) {
        if (name == "output.weight") {
            values.back() += 0.5f;
        }
    };
    const storing other(folder.path(), chunk_store::default_limit, tiny_model(spec));
    CHECK_EQ(other.read(tokens), 0);
    session_params p = small_chunks();
    p.kv.bits = 3;
    const storing same(folder.path());
    CHECK_EQ(same.read(tokens, p), 0);
    CHECK_EQ(same.store->counts().n_foreign + other.store->counts().n_foreign, 0);
    std::vector<std::string> others;
    for (const std::string & name : folder.names()) {
        if (!mine.contains(name)) {
            others.push_back(name);
        }
    }
    CHECK_EQ(others.size(), 16u);
    // Every file under every wrong name: what is taken is never what is wanted by name alone.
    const auto m = usual_model();
    const auto plain = std::make_shared<engine>(m, 1);
    session expected(plain, small_chunks());
    const auto logits = last_logits(expected, tokens);
    size_t i = 0;
    for (const std::string & name : mine) {
        std::filesystem::copy_file(folder.file(others[i++]), folder.file(name),
                                   std::filesystem::copy_options::overwrite_existing);
    }
    const storing mixed(folder.path());
    session s(mixed.e, small_chunks());
    CHECK(same_bits(last_logits(s, tokens), logits));
    CHECK_EQ(s.n_reused(), 0);
    CHECK_EQ(mixed.store->counts().n_foreign, 8);
    CHECK_EQ(mixed.store->counts().n_damaged, 0);
    CHECK_EQ(folder.names().size(), 24u);                // nobody's files are removed for being others'
    CHECK_EQ(storing(folder.path()).read(tokens), 288);  // those that were asked for are right again
}

TEST(a_text_before_that_is_another_is_no_hit_where_the_rest_is_the_same) {
    const temporary_folder folder;
    const std::vector<int32_t> tokens = some_tokens(300);
    std::vector<int32_t> other = tokens;
    other[5] ^= 1;
    storing(folder.path()).read(tokens);
    CHECK_EQ(storing(folder.path()).read(other), 0);
    CHECK_EQ(folder.names().size(), 16u);
}

TEST(damaged_files_are_removed_and_written_again) {
    const temporary_folder folder;
    const std::vector<int32_t> tokens = some_tokens(70);
    const storing first(folder.path());
    first.read(tokens);
    CHECK_EQ(folder.names().size(), 1u);
    const std::string path = folder.file(*folder.names().begin());
    const std::vector<uint8_t> whole = kv_saved::read_bytes(path);
    const auto m = usual_model();
    chunk_store store(folder.path());
    const chunked_cache empty(small_chunks().kv, first.e->shape(400));
    std::mt19937 rng(3);
    for (int i = 0; i < 1000; ++i) {
        std::vector<uint8_t> bytes = whole;
        if (i % 4 == 0) {
            bytes.resize(rng() % whole.size());
        } else if (i % 4 == 1) {
            std::generate(bytes.begin() + static_cast<int64_t>(rng() % bytes.size()), bytes.end(),
                          [&] { return static_cast<uint8_t>(rng()); });
        } else {
            bytes[rng() % bytes.size()] ^= static_cast<uint8_t>(1 + rng() % 255);
        }
        if (i % 4 == 3) {  // someone who means it
            kv_saved::renew_checksum(bytes);
        }
        kv_saved::write_bytes(path, bytes);
        const chunk_store_counts before = store.counts();
        const auto found = store.longest(m->facts(false), empty, tokens);
        const chunk_store_counts after = store.counts();
        CHECK(i % 4 == 3 || (!found && after.n_damaged == before.n_damaged + 1));
        CHECK_EQ((found ? 1 : 0) + after.n_damaged - before.n_damaged + after.n_foreign - before.n_foreign, 1);
        CHECK_EQ(std::filesystem::exists(path), after.n_damaged == before.n_damaged);
    }
    CHECK(store.counts().n_damaged >= 750);
    const storing again(folder.path());
    std::filesystem::remove(path);
    kv_saved::write_bytes(path, std::span(whole).first(whole.size() / 2));
    CHECK_EQ(again.read(tokens), 0);
    CHECK_EQ(again.store->counts().n_damaged, 1);
    CHECK(kv_saved::read_bytes(path) == whole);
    CHECK_EQ(storing(folder.path()).read(tokens), 64);
}

TEST(the_limit_is_kept_and_ends_of_what_was_not_used_go_first) {
    const temporary_folder all;
    storing(all.path()).read(some_tokens(300));
    const uint64_t one_prompt = bytes_in(all);
    const temporary_folder folder;
    const uint64_t limit = 3 * one_prompt;
    const storing kept(folder.path(), limit);
    const std::vector<int32_t> favourite = some_tokens(300, 1000);
    kept.read(favourite);
    for (uint32_t i = 1; i < 20; ++i) {
        kept.read(some_tokens(300, i));
        CHECK(bytes_in(folder) <= limit);
        CHECK_EQ(kept.read(favourite), 288);
    }
    CHECK(bytes_in(folder) > limit / 2);
    CHECK(kept.store->counts().n_evicted > 100);
    CHECK_EQ(kept.read(some_tokens(300, 1)), 0);
    // Less than a prompt: its beginning stays, and nothing is written over and over.
    const temporary_folder little;
    for (int run = 0; run < 3; ++run) {
        const storing narrow(little.path(), one_prompt / 2);
        CHECK_EQ(narrow.read(favourite) >= 64, run > 0);
        CHECK_EQ(narrow.store->counts().n_written > 0, run == 0);
        CHECK_EQ(narrow.store->counts().n_evicted, 0);
        CHECK(narrow.store->problem().find("bytes has room for the first ") != std::string::npos);
    }
    const temporary_folder none;
    const storing tight(none.path(), 1000);
    tight.read(favourite);
    CHECK(none.names().empty());
    CHECK_EQ(tight.store->problem(), "the limit of 1000 bytes has room for the first 0 tokens of the text");
    CHECK_ERROR(chunk_store(none.path(), 0), "a limit of 0 bytes");
}

TEST(a_folder_that_cannot_be_written_costs_no_answer) {
    const temporary_folder folder;
    const std::vector<int32_t> tokens = some_tokens(300);
    const auto plain = std::make_shared<engine>(usual_model(), 1);
    session expected(plain, small_chunks());
    const auto logits = last_logits(expected, tokens);
    const storing full(folder.path());
    {
        const no_room here(1000);
        session s(full.e, small_chunks());
        CHECK(same_bits(last_logits(s, tokens), logits));
    }
    CHECK(folder.names().empty());
    CHECK_EQ(full.store->counts().n_failed, 1);  // not at every chunk
    CHECK(full.store->problem().find("File too large") != std::string::npos);
    for (int i = 0; i < 3; ++i) {  // there is room again
        full.read(tokens);
    }
    CHECK_EQ(full.read(tokens), 288);
    CHECK_EQ(full.store->problem(), "");
    const std::string gone = folder.file("gone");
    const storing lost(gone);
    std::filesystem::remove(gone);
    CHECK_EQ(lost.read(tokens), 0);
    CHECK_EQ(lost.store->counts().n_failed, 1);
    CHECK_ERROR(chunk_store(folder.file("no/such")), "no/such': No such file or directory");
    kv_saved::write_bytes(folder.file("file"), tokens.size() ? std::vector<uint8_t>{1} : std::vector<uint8_t>{});
    CHECK_ERROR(chunk_store(folder.file("file")), "it is not a folder");
    CHECK_ERROR(chunk_store(""), "it has no name");
}

TEST(several_processes_store_the_same_at_once) {
    const temporary_folder folder;
    std::vector<pid_t> children;
    for (uint32_t i = 0; i < 3; ++i) {
        const pid_t child = ::fork();
        if (child == 0) {
            const storing mine(folder.path());
            for (uint32_t k = 0; k < 6; ++k) {
                mine.read(some_tokens(300, (i + k) % 6));
            }
            const chunk_store_counts counts = mine.store->counts();
            ::_exit(counts.n_damaged + counts.n_foreign + counts.n_failed == 0 ? 0 : 1);
        }
        children.push_back(child);
    }
    for (const pid_t child : children) {
        int status = -1;
        CHECK_EQ(::waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
    }
    const storing after(folder.path());
    for (uint32_t k = 0; k < 6; ++k) {
        CHECK_EQ(after.read(some_tokens(300, k)), 288);
    }
    CHECK_EQ(folder.names().size(), 6 * 8u);
}

TEST(what_killed_writers_leave_goes_and_other_files_stay) {
    const temporary_folder folder;
    for (const char * name : {"0123456789abcdef.kv.tmp-1", "notes.txt", "0123456789ABCDEF.kv"}) {
        kv_saved::write_bytes(folder.file(name), std::vector<uint8_t>{1, 2, 3});
    }
    const storing here(folder.path(), 1);  // all that is its own is over the limit
    here.read(some_tokens(300));
    CHECK(folder.names() == (std::set<std::string>{"notes.txt", "0123456789ABCDEF.kv"}));
}

TEST(a_piece_is_no_saved_sequence_and_a_list_says_what_there_is) {
    const temporary_folder folder;
    storing(folder.path()).read(some_tokens(300));
    session s(usual_model(), small_chunks());
    CHECK_ERROR(s.load(folder.file(*folder.names().begin())), "a piece of one");
    kv_saved::write_bytes(folder.file("00000000000000aa.kv"), std::vector<uint8_t>{1, 2, 3});
    const std::vector<stored_piece> pieces = stored_pieces(folder.path());
    CHECK_EQ(pieces.size(), 9u);
    int64_t n_tokens = 0;
    for (const stored_piece & piece : pieces) {
        CHECK_EQ(piece.readable, piece.name != "00000000000000aa.kv");
        CHECK(!piece.readable || (piece.policy == "livekv" && piece.weights.size() == 16));
        n_tokens += piece.n_tokens;
    }
    CHECK_EQ(n_tokens, 288);
    CHECK_ERROR(stored_pieces(folder.file("none")), "cannot read the folder");
}

TEST_MAIN
