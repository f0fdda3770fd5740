// tests/unit/test_cuda_attention.cpp on the device.
#include "test_cuda_attention.cpp"
