#pragma once

// Attention over a sequence at every CPU level that runs here.

#include <algorithm>
#include <vector>

#include "check.h"
#include "kernels/attention_job.h"
#include "random_rows.h"
#include "random_sequence.h"

// The largest error against double precision.
inline double worst_nmse(random_sequence & seq) {
    const std::vector<float> reference = seq.reference();
    double worst = 0.0;
    for (const livekv::cpu_kernels * level : cpu_levels()) {
        std::vector<float> out;
        const livekv::attention_args args = seq.args(out);
        livekv::attention_job job(*level, 1, args.head_dim);
        job.prepare({&args, 1});
        job.run(0, args.q, args.out);
        worst = std::max(worst, nmse(out, reference));
    }
    return worst;
}

inline void check_worst(random_sequence & seq, double limit) {
    const double worst = worst_nmse(seq);
    if (!(worst <= limit)) {
        check::report(__FILE__, __LINE__, "nmse " + check::text(worst));
    }
}
