#pragma once

// Marks what CPU and GPU code share. Rounding is the same on both because nothing in it may be contracted: such files
// are compiled with -ffp-contract=off, or -fmad=false by nvcc.
#if defined(__CUDACC__)
#define LIVEKV_HD __host__ __device__
#else
#define LIVEKV_HD
#endif
