"""The fast path of a step on CPUs: kernels in C++, built where a compiler is, and their use."""
