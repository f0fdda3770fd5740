#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#define MAX_CPUS 4096

static atomic_int n_seen[MAX_CPUS];  // [cpu] threads that were there when they last waited
static _Thread_local int seen_on;    // of them this one, plus 1; 0: none yet
static pthread_key_t at_exit;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void leave(void * unused) {
    (void) unused;
    if (seen_on > 0) {
        atomic_fetch_sub(&n_seen[seen_on - 1], 1);
        seen_on = 0;
    }
}

static void begin_anew(void) {  // in a child of fork, which has one thread
    memset((void *) n_seen, 0, sizeof(n_seen));
    seen_on = 0;
}

static void prepare(void) {
    pthread_key_create(&at_exit, leave);
    pthread_atfork(NULL, NULL, begin_anew);
}

void livekv_give_way(void);  // waiting.h, whose pause only ggml's file can define

void livekv_give_way(void) {
    const int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= MAX_CPUS) {
        return;
    }
    if (seen_on != cpu + 1) {
        pthread_once(&once, prepare);
        pthread_setspecific(at_exit, &seen_on);
        leave(NULL);
        atomic_fetch_add(&n_seen[cpu], 1);
        seen_on = cpu + 1;
    }
    if (atomic_load_explicit(&n_seen[cpu], memory_order_relaxed) > 1) {
        sched_yield();
    }
}
