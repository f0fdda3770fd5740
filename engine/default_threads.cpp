#include "default_threads.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <locale>
#include <sstream>
#include <thread>
#include <vector>

namespace livekv {

namespace {

constexpr long max_threads = 512;

// A word of a comma-separated list.
bool lists(const std::string & list, const std::string & word) {
    return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// quota / period of one folder of a control group; 0 where there is no limit.
double limit_of(const std::string & folder, bool version_2) {
    double quota = 0.0;
    double period = 0.0;
    if (version_2) {
        std::ifstream in(folder + "/cpu.max");
        in >> quota >> period;  // "max 100000" fails at once
    } else {
        std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;  // -1: none
        std::ifstream(folder + "/cpu.cfs_period_us") >> period;
    }
    return quota > 0.0 && period > 0.0 ? quota / period : 0.0;
}

// A folder and those above it, up to the mount point.
double least_limit(const std::string & mount, std::string path, bool version_2) {
    double least = 0.0;
    for (;;) {
        const double limit = limit_of(mount + path, version_2);
        if (limit > 0.0 && (least == 0.0 || limit < least)) {
            least = limit;
        }
        if (path.empty()) {
            return least;
        }
        path.erase(path.rfind('/'));
    }
}

// The process's path in the hierarchy with the CPU controller ("" for the root), from /proc/self/cgroup.
std::string own_path(const std::string & root, bool version_2) {
    std::ifstream in(root + "/proc/self/cgroup");
    for (std::string line; std::getline(in, line);) {  // hierarchy:controllers:path
        const size_t first = line.find(':');
        const size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) {
            continue;
        }
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (version_2 ? line.rfind("0::", 0) == 0 : lists(controllers, "cpu")) {
            const std::string path = line.substr(second + 1);
            return path.empty() || path[0] != '/' || path == "/" ? "" : path;
        }
    }
    return "";
}

// The first of a list of whole numbers from 1 on, with or without spaces; 0 for anything else, which OpenMP's own
// library does not follow either.
long first_of_list(const std::string & list) {
    std::istringstream in(list);
    in.imbue(std::locale::classic());
    for (long first = 0;;) {
        long n = 0;
        if (!(in >> n) || n < 1) {
            return 0;
        }
        first = first > 0 ? first : n;
        char comma = 0;
        if (!(in >> comma)) {
            return first;
        }
        if (comma != ',') {
            return 0;
        }
    }
}

}  // namespace

double cgroup_cpus(const std::string & root) {
    double least = 0.0;
    std::ifstream in(root + "/proc/self/mountinfo");
    for (std::string line; std::getline(in, line);) {
        // id parent device root-of-the-mount mount-point options [tags] - type source super-options
        std::istringstream words(line);
        std::string skipped, mount_root, mount, type, options;
        words >> skipped >> skipped >> skipped >> mount_root >> mount;
        while (words >> skipped && skipped != "-") {
        }
        words >> type >> skipped >> options;
        const bool version_2 = type == "cgroup2";
        if (!version_2 && !(type == "cgroup" && lists(options, "cpu"))) {
            continue;
        }
        std::string path = own_path(root, version_2);
        if (mount_root != "/") {  // a container's: the mount point may be the process's own group
            path = path.rfind(mount_root, 0) == 0 ? path.substr(mount_root.size()) : "";
        }
        if (!path.empty() && path[0] != '/') {
            path.clear();
        }
        const double limit = least_limit(root + mount, path, version_2);
        if (limit > 0.0 && (least == 0.0 || limit < least)) {
            least = limit;
        }
    }
    return least;
}

int32_t default_threads() {
    long n = 0;
    for (int room = CPU_SETSIZE; n == 0 && room <= 1 << 20; room *= 2) {  // EINVAL: the machine has more
        cpu_set_t * const allowed = CPU_ALLOC(static_cast<size_t>(room));
        const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(room));
        if (allowed && ::sched_getaffinity(0, bytes, allowed) == 0) {
            n = CPU_COUNT_S(bytes, allowed);
        }
        CPU_FREE(allowed);
    }
    if (n == 0) {
        n = std::max(1u, std::thread::hardware_concurrency());
    }
    if (const double limit = cgroup_cpus(); limit > 0.0) {
        n = std::min(n, static_cast<long>(std::ceil(limit)));
    }
    if (const char * asked = std::getenv("OMP_NUM_THREADS")) {
        const long first = first_of_list(asked);
        n = first > 0 ? std::min(n, first) : n;
    }
    return static_cast<int32_t>(std::clamp(n, 1L, max_threads));
}

}  // namespace livekv
