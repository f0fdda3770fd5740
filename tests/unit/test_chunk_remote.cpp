// What one folder lacks comes from where others have put it; what is damaged is mended in one run, wherever it lies.

#include <filesystem>
#include <map>
#include <string>

#include "check.h"
#include "engine/engine.h"
#include "saved_sequence.h"
#include "temporary_folder.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

session_params small_chunks() {
    return params_of("livekv", 32, 400);
}

std::shared_ptr<const model> usual_model() {
    static const auto m = tiny_model();
    return m;
}

// Takes what is offered from a folder at once.
class fake_remote : public chunk_remote {
  public:
    std::map<std::string, std::string> files;
    bool reached = true;
    int n_asked = 0;
    int n_changed = 0;
    std::string folder;  // whose files are offered

    std::optional<std::string> get(const std::string & name) noexcept override {
        ++n_asked;
        const auto found = files.find(name);
        return reached && found != files.end() ? std::optional(found->second) : std::nullopt;
    }
    void offer(const std::string & name, bool changed) noexcept override {
        if (reached && (changed || !files.contains(name))) {
            const std::vector<uint8_t> bytes = kv_saved::read_bytes(folder + "/" + name);
            files[name] = std::string(bytes.begin(), bytes.end());
            n_changed += changed ? 1 : 0;
        }
    }
};

struct storing {
    std::shared_ptr<chunk_store> store;
    std::shared_ptr<engine> e;

    explicit storing(const std::string & path, const std::shared_ptr<fake_remote> & remote = nullptr,
                     bool fetches_ahead = false, uint64_t limit = chunk_store::default_limit)
        : store(std::make_shared<chunk_store>(path, limit, remote, fetches_ahead)),
          e(std::make_shared<engine>(usual_model(), 1, 0, store)) {
        if (remote) {
            remote->folder = path;
        }
    }

    // How many tokens of a prompt, which is then read, were known. Its logits are those of one that was read alone.
    int64_t read(const std::vector<int32_t> & tokens) const {
        session s(e, small_chunks());
        session expected(std::make_shared<engine>(usual_model(), 1), small_chunks());
        CHECK(same_bits(last_logits(s, tokens), last_logits(expected, tokens)));
        return s.n_reused();
    }
};

// What a folder that is gone again has offered of a prompt.
std::shared_ptr<fake_remote> remote_with(const std::vector<int32_t> & tokens) {
    const temporary_folder folder;
    auto remote = std::make_shared<fake_remote>();
    storing(folder.path(), remote).read(tokens);
    return remote;
}

}  // namespace

TEST(several_damaged_pieces_of_a_text_are_written_anew_by_one_run) {
    const temporary_folder folder;
    const std::vector<int32_t> tokens = some_tokens(300);
    storing(folder.path()).read(tokens);
    std::map<int64_t, std::string> by_place;  // first token -> file
    for (const stored_piece & piece : stored_pieces(folder.path())) {
        by_place[piece.first_token] = folder.file(piece.name);
    }
    std::map<std::string, std::vector<uint8_t>> whole;
    for (const int64_t at : {96, 160, 192, 256}) {
        whole[by_place.at(at)] = kv_saved::read_bytes(by_place.at(at));
        std::filesystem::resize_file(by_place.at(at), 1000);
    }
    const storing healing(folder.path());
    CHECK_EQ(healing.read(tokens), 96);
    CHECK_EQ(healing.store->counts().n_damaged, 4);
    CHECK_EQ(healing.store->counts().n_written, 4);
    CHECK_EQ(healing.store->counts().n_read, 2);  // those behind were looked at only
    CHECK_EQ(healing.store->counts().n_tokens_read, 96);
    for (const auto & [path, bytes] : whole) {
        CHECK(kv_saved::read_bytes(path) == bytes);
    }
    const storing later(folder.path());
    CHECK_EQ(later.read(tokens), 288);
    CHECK_EQ(later.store->counts().n_damaged, 0);
}

TEST(what_another_folder_has_read_is_fetched) {
    const auto remote = std::make_shared<fake_remote>();
    const temporary_folder here;
    const temporary_folder there;
    const std::vector<int32_t> tokens = some_tokens(300);
    CHECK_EQ(storing(here.path(), remote).read(tokens), 0);
    CHECK_EQ(remote->files.size(), 8u);
    const storing other(there.path(), remote);
    CHECK_EQ(other.read(tokens), 288);
    CHECK_EQ(other.store->counts().n_tokens_read, 288);
    CHECK_EQ(other.store->counts().n_written, 0);
    CHECK(there.names() == here.names());
    remote->n_asked = 0;
    CHECK_EQ(other.read(tokens), 288);  // from the folder
    CHECK_EQ(remote->n_asked, 0);
    CHECK_EQ(other.read(some_tokens(300, 5)), 0);
    CHECK_EQ(remote->n_asked, 1);  // a text that nobody has read costs one question
}

TEST(pieces_from_before_are_offered_too) {
    const auto remote = std::make_shared<fake_remote>();
    const temporary_folder here;
    const std::vector<int32_t> tokens = some_tokens(300);
    storing(here.path()).read(tokens);
    remote->reached = false;
    CHECK_EQ(storing(here.path(), remote).read(tokens), 288);
    CHECK(remote->files.empty());
    remote->reached = true;
    CHECK_EQ(storing(here.path(), remote).read(tokens), 288);
    CHECK_EQ(remote->files.size(), 8u);
    remote->files.clear();
    std::vector<int32_t> longer = tokens;
    const std::vector<int32_t> more = some_tokens(60, 9);
    longer.insert(longer.end(), more.begin(), more.end());
    CHECK_EQ(storing(here.path(), remote).read(longer), 288);
    CHECK_EQ(remote->files.size(), here.names().size());
    CHECK_EQ(remote->n_changed, 2);
}

TEST(what_comes_damaged_is_computed_and_sent_anew) {
    const auto remote = std::make_shared<fake_remote>();
    const temporary_folder here;
    const std::vector<int32_t> tokens = some_tokens(300);
    storing(here.path(), remote).read(tokens);
    const auto whole = remote->files;
    for (auto & [name, bytes] : remote->files) {
        bytes.resize(bytes.size() / 2);
    }
    const temporary_folder there;
    const storing other(there.path(), remote);
    CHECK_EQ(other.read(tokens), 0);
    CHECK_EQ(other.store->counts().n_damaged, 8);
    CHECK(remote->files == whole);
    const temporary_folder third;
    CHECK_EQ(storing(third.path(), remote).read(tokens), 288);
}

TEST(a_store_that_fetches_ahead_asks_when_it_is_told) {
    const std::vector<int32_t> tokens = some_tokens(300);
    const auto remote = remote_with(tokens);
    const temporary_folder there;
    remote->n_asked = 0;
    const storing other(there.path(), remote, /*fetches_ahead=*/true);
    session s(other.e, small_chunks());
    CHECK_EQ(s.reuse(tokens), 0u);
    CHECK_EQ(remote->n_asked, 0);
    other.e->fetch(small_chunks().kv, 400, tokens);
    CHECK_EQ(remote->n_asked, 8);
    CHECK_EQ(s.reuse(tokens), 288u);
    kv_options plain;
    plain = plain.for_policy("f16");
    other.e->fetch(plain, 400, tokens);  // is not stored: nothing to ask
    storing(there.path()).e->fetch(small_chunks().kv, 400, tokens);
    CHECK_EQ(remote->n_asked, 8);
}

TEST(no_more_is_fetched_than_the_limit_keeps) {
    const std::vector<int32_t> tokens = some_tokens(300);
    const auto remote = remote_with(tokens);
    const temporary_folder there;
    uint64_t bytes = 0;
    for (const auto & [name, file] : remote->files) {
        bytes += file.size();
    }
    for (int run = 0; run < 2; ++run) {
        const storing narrow(there.path(), remote, false, bytes / 2);
        const int64_t n = narrow.read(tokens);
        CHECK(n >= 64 && n < 200);
        CHECK_EQ(narrow.store->counts().n_evicted, 0);
    }
}

TEST_MAIN
