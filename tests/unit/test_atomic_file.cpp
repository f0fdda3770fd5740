#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "atomic_file.h"
#include "check.h"
#include "error.h"
#include "file_in_use.h"
#include "temporary_folder.h"

using namespace livekv;

namespace {

void append(atomic_file & file, const std::string & text) {
    file.append({reinterpret_cast<const uint8_t *>(text.data()), text.size()});
}

void write(const std::string & path, const std::string & text) {
    atomic_file file(path);
    append(file, text);
    file.commit();
}

// A process that has written half of path; what it has so far is on the disk when the constructor returns.
class writer {
  public:
    explicit writer(const std::string & path) {
        int pipe[2];
        CHECK_EQ(::pipe(pipe), 0);
        pid_ = ::fork();
        if (pid_ == 0) {
            atomic_file file(path);
            append(file, "half");
            [[maybe_unused]] const ssize_t n = ::write(pipe[1], "x", 1);
            for (;;) {
                ::pause();
            }
        }
        char ready = 0;
        CHECK_EQ(::read(pipe[0], &ready, 1), 1);
        ::close(pipe[0]);
        ::close(pipe[1]);
    }
    ~writer() { kill(); }
    writer(const writer &) = delete;
    writer & operator=(const writer &) = delete;

    std::string temporary() const { return "a.tmp-" + std::to_string(pid_); }

    void kill() {
        if (!killed_) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
            killed_ = true;
        }
    }

  private:
    pid_t pid_ = 0;
    bool killed_ = false;
};

using names = std::set<std::string>;

}  // namespace

TEST(what_a_killed_writer_left_goes_with_the_next_write) {
    const temporary_folder here;
    writer first(here.file("a"));
    writer second(here.file("a"));
    const names both = {first.temporary(), second.temporary()};
    CHECK(here.names() == both);
    first.kill();
    second.kill();
    CHECK(here.names() == both);
    write(here.file("a"), "whole");
    CHECK(here.names() == names{"a"});
    CHECK_EQ(check::read_file(here.file("a")), "whole");
}

TEST(what_a_living_writer_has_so_far_stays) {
    const temporary_folder here;
    writer other(here.file("a"));
    atomic_file mine(here.file("a"));
    append(mine, "mine");
    write(here.file("a"), "between");
    CHECK(here.names() == (names{"a", other.temporary(), "a.tmp-" + std::to_string(::getpid())}));
    CHECK_EQ(check::read_file(here.file(other.temporary())), "half");
    mine.commit();
    CHECK_EQ(check::read_file(here.file("a")), "mine");
    other.kill();
    write(here.file("a"), "last");
    CHECK(here.names() == names{"a"});
}

TEST(a_file_whose_name_only_looks_alike_stays) {
    const temporary_folder here;
    const names others = {"a.tmp",   "a.tmp-",   "a.tmp7",     "a.tmp-7x",         "a.tmp-x7",
                          "b.tmp-7", "aa.tmp-7", "a.tmp-7.kv", "a.tmp-2026-11-21", "a.tmp-7-"};
    for (const std::string & name : others) {
        write(here.file(name), name);
    }
    names expected = others;
    expected.insert("a");
    write(here.file("a"), "whole");
    CHECK(here.names() == expected);
}

TEST(a_path_that_names_no_file_is_refused_and_harms_none) {
    const temporary_folder here;
    write(here.file("a"), "a");
    const std::string before = std::filesystem::current_path().string();
    CHECK_EQ(::chdir(here.file("").c_str()), 0);
    CHECK_ERROR(write("", "x"), "cannot write '': it names no file");
    CHECK_ERROR(write("none/", "x"), "cannot write 'none/': it names no file");
    CHECK_ERROR(write("./", "x"), "cannot write './': it is not a file");
    CHECK_EQ(::chdir(before.c_str()), 0);
    CHECK(here.names() == names{"a"});
}

TEST(without_commit_nothing_is_left) {
    const temporary_folder here;
    write(here.file("a"), "old");
    {
        atomic_file file(here.file("a"));
        append(file, "new");
    }
    CHECK(here.names() == names{"a"});
    CHECK_EQ(check::read_file(here.file("a")), "old");
}

TEST(a_file_that_is_read_is_not_replaced_by_any_name) {
    const temporary_folder here;
    write(here.file("a"), "old");
    std::filesystem::create_hard_link(here.file("a"), here.file("hard"));
    std::filesystem::create_symlink("a", here.file("soft"));
    {
        const file_in_use reading(here.file("a"));
        {
            const file_in_use again(here.file("soft"));
            const file_in_use nothing(here.file("none"));
        }
        for (const char * name : {"a", "hard", "soft"}) {
            CHECK_ERROR(write(here.file(name), "new"), "it is a file that is read here");
        }
        write(here.file("b"), "b");
        CHECK(here.names() == (names{"a", "b", "hard", "soft"}));
    }
    write(here.file("soft"), "new");
    CHECK_EQ(check::read_file(here.file("a")), "new");
    CHECK_EQ(check::read_file(here.file("hard")), "old");
}

TEST_MAIN
