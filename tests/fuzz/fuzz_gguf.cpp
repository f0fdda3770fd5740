// Any bytes as a GGUF file, or as the two parts of one (gguf_parts.h): reading what it says may throw livekv::error, no
// more. One in eight of those that can be a model loads its weights, and one in four of these computes with them.

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "../fixtures/small_vocab.h"
#include "gguf_parts.h"
#include "model/gguf_keys.h"
#include "model/hparams.h"
#include "model/tokenizer.h"
#include "session/session.h"
#include "target.h"
#include "xxh64.h"

namespace {

// Files in memory by the names that parts have.
class part_files {
  public:
    part_files()
        : folder_(std::filesystem::temp_directory_path() / ("livekv-fuzz-parts-" + std::to_string(::getpid()))) {
        std::filesystem::create_directories(folder_);
        for (size_t i = 0; i < 2; ++i) {
            std::filesystem::remove(name(i));
            std::filesystem::create_symlink(files_[i].path(), name(i));
        }
    }
    ~part_files() { std::filesystem::remove_all(folder_); }
    part_files(const part_files &) = delete;
    part_files & operator=(const part_files &) = delete;

    std::string write(const fuzz::gguf_parts & parts) {
        files_[0].write(parts.first.data(), parts.first.size());
        if (!parts.two) {
            return files_[0].path();
        }
        files_[1].write(parts.second.data(), parts.second.size());
        return name(parts.first.size() % 2);  // either may be named
    }

  private:
    std::string name(size_t i) const { return folder_ / ("m-0000" + std::to_string(i + 1) + "-of-00002.gguf"); }

    std::filesystem::path folder_;
    fixtures::memory_file files_[2];
};

void use(const livekv::tokenizer & tok) {
    tok.decode(tok.encode("Hello <s> w\u00f6rld 123\n\xFF\u2581", true, true), true);
    livekv::stream_decoder stream(tok);
    for (int32_t id = 0; id < tok.n_vocab() && id < 100; ++id) {
        stream.push(id);
    }
    stream.finish();
}

void compute(const std::shared_ptr<const livekv::model> & m) {
    const auto e = std::make_shared<livekv::engine>(m, /*n_threads=*/1);
    for (const char * policy : {"f16", "livekv"}) {
        livekv::session_params params;
        params.n_ctx = 16;
        params.kv.policy = policy;
        livekv::session s(e, params);
        s.prefill(std::vector<int32_t>{0, 1, 0});
        s.append(1);
    }
}

// Whether it went well; an error is the right answer to an input that is none.
template <typename Function>
bool goes_well(const uint8_t * data, size_t size, const Function & act) {
    try {
        act();
        return true;
    } catch (const livekv::error & problem) {
        fuzz::expected(problem, data, size);
        return false;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static part_files files;
    const std::string path = files.write(fuzz::parts_of(data, size));
    livekv::xxh64 hash;
    hash.update({data, size});
    const uint64_t drawn = hash.digest();
    const fuzz::limits limit(size);
    goes_well(data, size, [&] {
        const livekv::gguf_file file(path);
        const bool vocabulary = goes_well(data, size, [&] { use(livekv::tokenizer(file)); });
        const bool shape = goes_well(data, size, [&] { livekv::hparams::read(file); });
        if (vocabulary && shape && drawn % 8 == 0) {
            const auto m = livekv::model::load(path);
            if (drawn % 32 == 0) {
                compute(m);
            }
        }
    });
    return 0;
}
