#pragma once

#include <cstdint>
#include <string>

namespace livekv {

// Threads to compute with where none were asked for: one for each CPU this process may run on, but no more than its
// control group has time for, nor than the first number of OMP_NUM_THREADS, where that is a list of numbers from 1 on:
// threads wait by spinning, so more of them than CPUs are slower than fewer. 1..512.
int32_t default_threads();

// CPUs' worth of time that control groups leave this process: the least of its own limit and those above, version 2's
// cpu.max and version 1's cpu.cfs_quota_us; 0: no limit. root: where /proc and what is mounted are looked for.
double cgroup_cpus(const std::string & root = "");

}  // namespace livekv
