// How many threads there are by default: the environment, affinity, control groups of both versions.

#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "check.h"
#include "default_threads.h"

using namespace livekv;

namespace {

// A folder in which /proc and /sys look as we say.
class fake_root {
  public:
    fake_root() {
        char name[] = "/tmp/livekv-threads-XXXXXX";
        path_ = ::mkdtemp(name);
    }
    ~fake_root() { std::filesystem::remove_all(path_); }
    fake_root & put(const std::string & file, const std::string & text) {
        std::filesystem::create_directories(std::filesystem::path(path_ + file).parent_path());
        std::ofstream(path_ + file) << text;
        return *this;
    }
    double cpus() const { return cgroup_cpus(path_); }

  private:
    std::string path_;
};

const std::string v2_mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
const std::string v1_mount =
    "33 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "34 24 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";

}  // namespace

TEST(cpu_max_of_a_group_and_of_those_above) {
    fake_root root;
    CHECK_EQ(root.cpus(), 0.0);  // no /proc
    root.put("/proc/self/mountinfo", v2_mount).put("/proc/self/cgroup", "0::/a/b\n");
    CHECK_EQ(root.cpus(), 0.0);
    root.put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK_EQ(root.cpus(), 0.0);
    root.put("/sys/fs/cgroup/a/b/cpu.max", "350000 100000\n");
    CHECK_EQ(root.cpus(), 3.5);
    root.put("/sys/fs/cgroup/a/cpu.max", "50000 50000\n");
    CHECK_EQ(root.cpus(), 1.0);
}

TEST(a_container_sees_its_own_group_at_the_mount_point) {
    fake_root root;  // without a namespace of its own /proc/self/cgroup names the host's path
    root.put("/proc/self/mountinfo", "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n");
    root.put("/proc/self/cgroup", "0::/docker/abc/inner\n");
    root.put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    CHECK_EQ(root.cpus(), 2.0);
    root.put("/sys/fs/cgroup/inner/cpu.max", "150000 100000\n");
    CHECK_EQ(root.cpus(), 1.5);
    root.put("/proc/self/cgroup", "0::/elsewhere\n");
    CHECK_EQ(root.cpus(), 2.0);
}

TEST(the_first_version_too_with_its_own_hierarchy) {
    fake_root root;
    root.put("/proc/self/mountinfo", v1_mount);
    root.put("/proc/self/cgroup", "4:cpuset:/set\n3:cpu,cpuacct:/job\n0::/unified\n");
    root.put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
    root.put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    root.put("/sys/fs/cgroup/cpuset/set/cpu.cfs_quota_us", "1\n");  // not this hierarchy's
    CHECK_EQ(root.cpus(), 0.0);
    root.put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "250000\n");
    CHECK_EQ(root.cpus(), 2.5);
}

TEST(nonsense_is_no_limit) {
    fake_root root;
    root.put("/proc/self/mountinfo", "x\n\n1 2 3 / /sys/fs/cgroup\n" + v2_mount)
        .put("/proc/self/cgroup", "\n:\n0::\n0::a\n");
    root.put("/sys/fs/cgroup/cpu.max", "-5 0\n");
    CHECK_EQ(root.cpus(), 0.0);
}

TEST(affinity_counts_and_the_environment_may_ask_for_less) {
    ::unsetenv("OMP_NUM_THREADS");
    cpu_set_t before;
    ::sched_getaffinity(0, sizeof(before), &before);
    const int32_t all = default_threads();
    CHECK(all <= CPU_COUNT(&before));
    for (const char * one : {"1", " 1 ", "1,7", "1 , 7", "+1", "01"}) {
        ::setenv("OMP_NUM_THREADS", one, 1);
        CHECK_EQ(default_threads(), 1);
    }
    for (const char * more : {"999", "100000", "9223372036854775807", "512,1", "\t999\n"}) {
        ::setenv("OMP_NUM_THREADS", more, 1);
        CHECK_EQ(default_threads(), all);
    }
    for (const char * none : {"", " ", "0", "-1", "many", "1x", "1.5", "0x1", "1,", "1,0", "1,,2", ",1", "1 2",
                              "99999999999999999999999"}) {
        ::setenv("OMP_NUM_THREADS", none, 1);
        CHECK_EQ(default_threads(), all);
    }
    ::unsetenv("OMP_NUM_THREADS");
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
        if (CPU_ISSET(cpu, &before)) {
            CPU_SET(cpu, &one);
        }
    }
    ::sched_setaffinity(0, sizeof(one), &one);
    CHECK_EQ(default_threads(), 1);
    ::setenv("OMP_NUM_THREADS", "3,2", 1);
    CHECK_EQ(default_threads(), 1);
    ::unsetenv("OMP_NUM_THREADS");
    ::sched_setaffinity(0, sizeof(before), &before);
}

TEST_MAIN
