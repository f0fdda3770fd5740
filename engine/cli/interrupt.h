#pragma once

namespace livekv {

// From now on the first Ctrl-C is only noted; the second one ends the process as usual.
void catch_interrupt();

bool interrupted();

// Forgets a noted Ctrl-C and catches the next one.
void clear_interrupt();

}  // namespace livekv
