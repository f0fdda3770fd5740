// Memory that ggml is lent for the length of a call. It does not look whether what it keeps for itself was granted, and
// its own checks end the process: refused by the system, it takes from the loan, and whoever lent it sees that and
// gives up what the call has made.
#ifndef LIVEKV_GGML_LOAN_H
#define LIVEKV_GGML_LOAN_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LIVEKV_GGML_SPARES 3         // a scheduler has a buffer on each of so many backends
#define LIVEKV_GGML_SPARE_BYTES 256  // what describes a buffer takes half of it

struct livekv_ggml_loan {
    unsigned char * bytes;  // aligned to 64
    size_t size;
    size_t used;            // more than size when it did not suffice
    int addresses_suffice;  // buffers are not written before the loan ends: any address does
    // What C++'s new gave for objects that delete will end; NULL where there is none, or it was taken.
    void * spares[LIVEKV_GGML_SPARES];
};

// Lends to this thread, in the place of what was lent before, which is returned. NULL: nothing.
struct livekv_ggml_loan * livekv_ggml_lend(struct livekv_ggml_loan * loan);

#ifdef __cplusplus
}
#endif

#endif
