#pragma once

// Stacks of their own that one thread of the machine switches between (simt_emulated.cpp).

#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__)
#define LIVEKV_UCONTEXT
#include <ucontext.h>
#endif

#include <cstddef>
#include <cstdint>

namespace livekv::simt::emulated {

constexpr size_t stack_bytes = 64 << 10;

// Where a stack of its own was left.
#if defined(LIVEKV_UCONTEXT)

struct place {
    ucontext_t context;

    void start(uint8_t * stack, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = stack_bytes;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
};

inline void go(place & from, place & to) {
    swapcontext(&from.context, &to.context);
}

#else

// swapcontext asks the system for the signal mask each time, half of all the time there is; this does not.
struct place {
    void * top = nullptr;

    void start(uint8_t * stack, void (*entry)()) {
        auto ** at = reinterpret_cast<void **>(stack + stack_bytes - 64);  // a multiple of 16, as the system wants it
        *--at = nullptr;                                                   // entry does not return
        *--at = reinterpret_cast<void *>(entry);
        for (int32_t i = 0; i < 6; ++i) {
            *--at = nullptr;
        }
        top = at;
    }
};

[[gnu::naked, gnu::noinline]] static void switch_stacks(void ** /* from, in rdi */, void * /* to, in rsi */) {
    asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret");
}

inline void go(place & from, place & to) {
    switch_stacks(&from.top, to.top);
}

#endif

}  // namespace livekv::simt::emulated
