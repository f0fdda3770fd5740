#include "cli/interrupt.h"

#include <signal.h>

#include <atomic>
#include <csignal>

namespace livekv {

namespace {

// Whichever thread of the process gets the signal, another may ask.
std::atomic<bool> noted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "else a signal's handler may not write it");

void note(int) {
    noted = true;
    std::signal(SIGINT, SIG_DFL);
}

}  // namespace

// Without SA_RESTART, so that a Ctrl-C also ends the wait for the next line of a chat.
void catch_interrupt() {
    struct sigaction action = {};
    action.sa_handler = note;
    ::sigaction(SIGINT, &action, nullptr);
}

bool interrupted() {
    return noted;
}

void clear_interrupt() {
    noted = false;
    catch_interrupt();
}

}  // namespace livekv
