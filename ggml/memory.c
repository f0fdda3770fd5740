#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-loan.h"

#ifdef __APPLE__
#include <malloc/malloc.h>
#define usable_size malloc_size
#else
#include <malloc.h>
#define usable_size malloc_usable_size
#endif

#define STEP 64  // pieces of a loan: their size, then they themselves, aligned as ggml's are

void * livekv_ggml_malloc(size_t n);
void * livekv_ggml_calloc(size_t n, size_t each);
void * livekv_ggml_realloc(void * p, size_t n);
int livekv_ggml_posix_memalign(void ** p, size_t alignment, size_t n);
void livekv_ggml_free(void * p);
void * livekv_ggml_spare(size_t n);

static _Thread_local struct livekv_ggml_loan * lent;

struct livekv_ggml_loan * livekv_ggml_lend(struct livekv_ggml_loan * loan) {
    struct livekv_ggml_loan * before = lent;
    lent = loan;
    return before;
}

static void * from_loan(size_t n) {
    if (!lent) {
        return NULL;
    }
    if (lent->used > lent->size || n > lent->size || (n + STEP - 1) / STEP * STEP + STEP > lent->size - lent->used) {
        lent->used = lent->size + 1;
        return NULL;
    }
    lent->used = (lent->used + STEP - 1) / STEP * STEP;
    unsigned char * piece = lent->bytes + lent->used;
    memcpy(piece, &n, sizeof(n));
    lent->used += (n + STEP - 1) / STEP * STEP + STEP;
    return piece + STEP;
}

static int is_lent(const void * p) {
    return lent && (uintptr_t) p >= (uintptr_t) lent->bytes && (uintptr_t) p < (uintptr_t) lent->bytes + lent->size;
}

void * livekv_ggml_spare(size_t n) {
    for (int i = 0; lent && n <= LIVEKV_GGML_SPARE_BYTES && i < LIVEKV_GGML_SPARES; ++i) {
        void * spare = lent->spares[i];
        if (spare) {
            lent->spares[i] = NULL;
            lent->used += lent->used == 0;
            return spare;
        }
    }
    return NULL;
}

void * livekv_ggml_malloc(size_t n) {
    void * p = malloc(n);
    return p ? p : from_loan(n);
}

void * livekv_ggml_calloc(size_t n, size_t each) {
    void * p = calloc(n, each);
    if (!p && (each == 0 || n <= SIZE_MAX / each)) {
        p = from_loan(n * each);
        if (p) {
            memset(p, 0, n * each);
        }
    }
    return p;
}

void * livekv_ggml_realloc(void * p, size_t n) {
    const int from_lent = is_lent(p);
    void * moved = from_lent ? NULL : realloc(p, n);
    if (moved || n == 0) {
        return moved;
    }
    moved = livekv_ggml_malloc(n);
    if (moved && p) {
        size_t before = 0;
        if (from_lent) {
            memcpy(&before, (unsigned char *) p - STEP, sizeof(before));
        } else {
            before = usable_size(p);
        }
        memcpy(moved, p, before < n ? before : n);
        livekv_ggml_free(p);
    }
    return moved;
}

int livekv_ggml_posix_memalign(void ** p, size_t alignment, size_t n) {
    const int problem = posix_memalign(p, alignment, n);
    if (problem != ENOMEM || alignment > STEP) {
        return problem;
    }
    if (lent && lent->addresses_suffice) {
        lent->used += lent->used == 0;
        *p = lent->bytes;
        return 0;
    }
    *p = from_loan(n);
    return *p ? 0 : ENOMEM;
}

void livekv_ggml_free(void * p) {
    if (!is_lent(p)) {
        free(p);
    }
}
