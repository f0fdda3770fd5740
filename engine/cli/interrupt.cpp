#include "cli/interrupt.h"

#include <signal.h>

#include <csignal>

namespace livekv {

namespace {

volatile std::sig_atomic_t noted = 0;

void note(int) {
    noted = 1;
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
    return noted != 0;
}

void clear_interrupt() {
    noted = 0;
    catch_interrupt();
}

}  // namespace livekv
