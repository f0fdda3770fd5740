#!/usr/bin/env python3
"""OpenVINO GenAI's side of first_token.py, which runs it with an interpreter that has the package openvino-genai.

It reads the same GGUF file, with its own defaults of weights and cache; prefix caching, which is on by default, is off.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import openvino
import openvino_genai


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--decode", type=int, default=32)
    args = parser.parse_args()
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    pipeline = openvino_genai.LLMPipeline(
        args.model, "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=args.threads
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = args.decode + 1
    config.ignore_eos = True
    config.do_sample = False
    print("ready", flush=True)
    for line in sys.stdin:
        tokens = np.array([json.loads(line)], np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(tokens), openvino.Tensor(np.ones_like(tokens)))
        metrics = pipeline.generate(inputs, config).perf_metrics
        print(json.dumps([metrics.get_ttft().mean / 1e3, 1e3 / metrics.get_tpot().mean]), flush=True)


if __name__ == "__main__":
    main()
