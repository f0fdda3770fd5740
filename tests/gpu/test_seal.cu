// tests/unit/test_cuda_seal.cpp on the device.
#include "test_cuda_seal.cpp"
