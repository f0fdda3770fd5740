// tests/unit/test_cuda_classes.cpp on the device.
#include "test_cuda_classes.cpp"
