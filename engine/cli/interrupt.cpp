#include "cli/interrupt.h"

#include <csignal>

namespace livekv {

namespace {

volatile std::sig_atomic_t noted = 0;

void note(int) {
    noted = 1;
    std::signal(SIGINT, SIG_DFL);
}

}  // namespace

void catch_interrupt() { std::signal(SIGINT, note); }

bool interrupted() { return noted != 0; }

void clear_interrupt() {
    noted = 0;
    catch_interrupt();
}

}  // namespace livekv
