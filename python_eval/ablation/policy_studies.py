"""Studies of the policies kvstream and guided, as data."""

from __future__ import annotations

from .study import Setting, Study, free

PRUNING = "guided:propagate=cache"  # as published, each layer keeps its share


def _plain(bits: str) -> str:
    return f"key-bits-normal={bits}:value-bits-normal={bits}:sink-tokens=0:outlier-detection=off"


def _weights(alpha: str, beta: str, gamma: str) -> Setting:
    return Setting(f"weights {alpha}/{beta}/{gamma}", f"alpha={alpha}:beta={beta}:gamma={gamma}")


def _thresholds(high: str, medium: str) -> Setting:
    return Setting(f"thresholds {high}/{medium}", f"theta-h={high}:theta-m={medium}")


def _shares(early: str, middle: str, later: str) -> Setting:
    return Setting(f"shares {early}/{middle}/{later}", f"early-ratio={early}:middle-ratio={middle}:later-ratio={later}")


STREAM_STUDIES = (
    Study(
        "kvstream-component",
        "What do exact first tokens and wide channels add to 4 bits a channel?",
        "kvstream",
        (
            Setting("f16", cache="f16"),
            Setting("8 bits alone", _plain("8")),
            Setting("4 bits alone", _plain("4")),
            Setting("4 bits, sinks", "outlier-detection=off"),
            Setting("4 bits, flagged channels", "sink-tokens=0"),
            Setting("both, decay 0.95", "ema-decay=0.95"),
        ),
    ),
    Study(
        "kvstream-chunk",
        "How many tokens should share a channel's scale?",
        "kvstream",
        free("chunk-size", "64", "128", "256", "1024"),
    ),
    Study(
        "kvstream-decay",
        "How fast should the running maximum follow?",
        "kvstream",
        free("ema-decay", "0.7", "0.85", "0.95", "0.99"),
    ),
    Study(
        "kvstream-bits",
        "How many bits do keys and values need?",
        "kvstream",
        (
            Setting("8 bits", "key-bits-normal=8:value-bits-normal=8"),
            Setting("5 bits", "key-bits-normal=5:value-bits-normal=5"),
            Setting("3 bits", "key-bits-normal=3:value-bits-normal=3"),
            Setting("2 bits", "key-bits-normal=2:value-bits-normal=2"),
            Setting("keys 5, values 3", "key-bits-normal=5:value-bits-normal=3"),
            Setting("keys 3, values 5", "key-bits-normal=3:value-bits-normal=5"),
        ),
    ),
    Study(
        "kvstream-sinks", "Must the first tokens be kept wide?", "kvstream", free("sink-tokens", "0", "1", "8", "16")
    ),
    Study(
        "kvstream-range",
        "What should a scale cover: the running maximum, the chunk's, or the larger?",
        "kvstream",
        free("stream-range", "ema", "own"),
    ),
    Study(
        "kvstream-rope",
        "Does it help to seal keys before RoPE?",
        "kvstream",
        (
            Setting("after RoPE", "pre-rope=off"),
            Setting("keys 3 bits, before RoPE", "key-bits-normal=3"),
            Setting("keys 3 bits, after RoPE", "key-bits-normal=3:pre-rope=off"),
        ),
    ),
    Study(
        "kvstream-values",
        "Must every channel of a value have its own scale?",
        "kvstream",
        free("value-quant-groups", "1", "2", "4", "8"),
    ),
)

COMPONENT = (
    Setting("no attention", "alpha=0:beta=0.5:gamma=0.5"),
    Setting("no position", "alpha=0.7:beta=0:gamma=0.3"),
    Setting("no relevance", "alpha=0.6:beta=0.4:gamma=0"),
    Setting("all low", "level-bits=2,2,2"),
    Setting("one share, 0.6", "early-ratio=0.6:middle-ratio=0.6:later-ratio=0.6"),
    Setting("16 bits", "level-bits=16,16,16"),
)
IMPORTANCE = (
    _weights("0.2", "0.4", "0.4"),
    _weights("0.5", "0.25", "0.25"),
    _weights("0.6", "0.2", "0.2"),
    _weights("0.4", "0.4", "0.2"),
    _weights("0.4", "0.2", "0.4"),
)
THRESHOLDS = (
    _thresholds("0.6", "0.2"),
    _thresholds("0.6", "0.3"),
    _thresholds("0.7", "0.4"),
    _thresholds("0.8", "0.3"),
    _thresholds("0.5", "0.35"),
)
SHARES = (
    _shares("0.9", "0.7", "0.5"),
    _shares("0.7", "0.5", "0.3"),
    _shares("0.6", "0.4", "0.2"),
    _shares("1", "0.8", "0.6"),
    Setting("nothing dropped", "propagate=off"),
    Setting("tokens leave on the way up", "propagate=layers"),
)
LEVELS = (
    Setting("bits 8/4/3", "level-bits=8,4,3"),
    Setting("bits 8/5/2", "level-bits=8,5,2"),
    Setting("bits 8/3/2", "level-bits=8,3,2"),
    Setting("bits 16/8/4", "level-bits=16,8,4"),
    Setting("bits 8/4, the rest dropped", "level-bits=8,4,0"),
)
EXTENSIONS = (
    Setting("as published", "budget=bits:protect=off:key-axis=token:min-class=0"),
    Setting("guide at the end", "guide=last"),
    Setting("z scores", "guide-norm=zscore"),
    Setting("budget of bits", "budget=bits"),
    Setting("nothing protected", "protect=off"),
    Setting("keys by token", "key-axis=token"),
    Setting("no levels joined", "min-class=0"),
    Setting("4 bits for all, none dropped", "level-bits=4,4,4:propagate=off"),
)

GUIDED_STUDIES = (
    Study("guided-component", "What is lost without each part of the score?", PRUNING, COMPONENT),
    Study("guided-importance_weights", "How should the parts of a score be weighed?", PRUNING, IMPORTANCE),
    Study("guided-precision_thresholds", "From which scores on should tokens be wider?", PRUNING, THRESHOLDS),
    Study("guided-propagation_ratios", "What share of its tokens should a layer keep?", PRUNING, SHARES),
    Study("guided-quantization_bits", "How many bits should levels have?", PRUNING, LEVELS),
    Study(
        "guided-comprehensive",
        "All of these, and what the engine adds to the publication.",
        PRUNING,
        (*COMPONENT, *IMPORTANCE, *THRESHOLDS, *SHARES, *LEVELS, *EXTENSIONS),
    ),
)

POLICY_STUDIES = (*STREAM_STUDIES, *GUIDED_STUDIES)
