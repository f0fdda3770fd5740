#pragma once

#include <optional>
#include <string>

namespace livekv {

// Where files of a chunk_store's folder are kept beyond it: a server that several share, an object store. By the files'
// names; what comes back is checked as any file of the folder is. Called from any thread; what goes wrong is for the
// one behind it to say.
class chunk_remote {
  public:
    virtual ~chunk_remote() = default;

    // A file's bytes; none where it is not there, or cannot be had now.
    virtual std::optional<std::string> get(const std::string & name) noexcept = 0;

    // The folder has this file, which a text under way uses: it may be sent. changed: just written.
    virtual void offer(const std::string & name, bool changed) noexcept = 0;
};

}  // namespace livekv
