#!/bin/sh
# demo.sh BIN: a real model is asked about a text that it has just read; without it, the shipped model continues one.
set -eu
cd "$(dirname "$0")/../.."

if model=$(python3 tests/models/fetch.py smollm2); then
    questions="Who is the captain of the ferry?
Where does the nurse live?"
    echo "SmolLM2-135M-Instruct reads tests/data/island-guide.txt and is asked:" >&2
    echo "$questions" >&2
    echo "$questions" | "$1/livekv-cli" -m "$model" -cnv -n 60 --temp 0 --system "$(cat tests/data/island-guide.txt)

Answer the user's question from this guide in one short sentence."
else
    echo "demo: without SmolLM2, the shipped model of 4 million parameters continues a novel" >&2
    "$1/livekv-cli" -m tests/models/story.gguf -f tests/data/war-and-peace-opening.txt -n 120 --temp 0.7 -s 1
fi
