// Included in front of ggml-cpu.c (CMakeLists.txt). ggml's threads wait for each other in a loop of
// ggml_thread_cpu_relax(), which never gives the core away, not even to the thread that is waited for. Its calls, and
// not its definition, are replaced here by pauses that do.
#ifndef LIVEKV_GGML_WAITING_H
#define LIVEKV_GGML_WAITING_H

// Lets another thread run where one that waits like this one was last seen on the same CPU. Anybody else would keep the
// core for a whole time slice, while the others wait for this thread at the next barrier.
void livekv_give_way(void);

static inline void livekv_relax(void);  // ggml's own pause

static inline void livekv_wait(void) {
    static _Thread_local unsigned n_pauses;
    livekv_relax();
    if (++n_pauses % 64 == 0) {  // some microseconds
        livekv_give_way();
    }
}

#define ggml_thread_cpu_relax(parameters) LIVEKV_RELAX_##parameters
#define LIVEKV_RELAX_void livekv_relax(void)
#define LIVEKV_RELAX_ livekv_wait()

#endif
