"""The studies, as data: those of livekv, then those of other policies (policy_studies.py).

`published` is the score that the published system got on LongBench's narrativeqa (200 samples, Llama-3.1-8B; the later
of its two runs, from its own result tables), where its baseline has 29.57 and paired standard errors are about 1 point.
"""

from __future__ import annotations

from ..errors import EvalError
from ..specs import parse_changes
from .policy_studies import POLICY_STUDIES
from .study import Setting, Study, free, sweep

# The published scheme with warm-up keys sealed once their statistics have settled. Kept for ever, as published, they
# would be half of a window of 2048 tokens, exact, and hide what is varied; the component study has them as a setting.
PUBLISHED = "reference:warmup-keep=off"
SHIPPED = "livekv"
PUBLISHED_BASELINE_SCORE = 29.57


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "component",
            "What is lost without each component of the published scheme?",
            PUBLISHED,
            (
                Setting("no warm-up", "warmup-chunks=0", published=28.23),
                Setting("no outliers", "outlier-ratio=0", published=27.78),
                Setting("asymmetric (ema_minmax)", "scale-method=ema_minmax", published=28.90),
                Setting("no bypass layers", "bypass-layers=0", published=28.89),
                Setting("no sinks", "sink-tokens=0"),
                Setting("warm-up kept", "warmup-keep=on", published=PUBLISHED_BASELINE_SCORE),
            ),
        ),
        Study(
            "chunk",
            "How many tokens should be sealed together? (Chunks as long as the window leave it uncompressed.)",
            PUBLISHED,
            sweep("chunk-size", ("128", None), ("256", 29.31), ("1024", 28.42), ("2048", 27.93), ("4096", 28.74)),
        ),
        Study(
            "warmup",
            "How long must the key statistics settle?",
            PUBLISHED,
            sweep("warmup-chunks", ("0", 28.23), ("1", None), ("3", None), ("4", None)),
        ),
        Study(
            "alpha",
            "How fast should the running maximum follow?",
            PUBLISHED,
            sweep("ema-alpha", ("0.05", None), ("0.2", 29.41), ("0.3", 28.45), ("0.5", 28.62), ("1", None)),
        ),
        Study(
            "clip",
            "How far above the running maximum may a chunk count?",
            PUBLISHED,
            sweep("clip-factor", ("1", 26.30), ("2", None), ("3", 28.21), ("5", 28.70), ("7", 28.42)),
        ),
        Study(
            "outliers",
            "What share of entries should be kept apart?",
            PUBLISHED,
            sweep("outlier-ratio", ("0", 27.78), ("0.005", 27.82), ("0.02", None), ("0.05", 27.85)),
        ),
        Study(
            "bits",
            "How many bits do keys and values need?",
            SHIPPED,
            free("kv-bits", "8", "5", "5,4", "4,5", "4,3", "3,4", "3", "2"),
        ),
        Study(
            "widths",
            "Should key channels have widths of their own?",
            SHIPPED,
            (
                Setting("one width", "key-alloc=off"),
                Setting("one width, outliers 0.5 %", "outlier-ratio=0.005"),
                *free("key-quarters", "1", "2", "3"),
            ),
        ),
        Study("sinks", "Must the first tokens stay exact?", SHIPPED, free("sink-tokens", "0", "1", "16", "64")),
        Study(
            "bypass",
            "What do first layers at higher precision buy?",
            SHIPPED,
            (
                Setting("1 layer, q8_0", "bypass-layers=1"),
                Setting("2 layers, q8_0", "bypass-layers=2"),
                Setting("1 layer, f16", "bypass-layers=1:bypass-type=f16"),
                Setting("2 layers, f16", "bypass-layers=2:bypass-type=f16"),
            ),
        ),
        Study(
            "scale",
            "What should scales be made of, and how many tokens share one?",
            SHIPPED,
            (
                *free("scale-method", "range", "ema_absmax", "ema_minmax"),
                *free("key-group", "32", "64", "256", "chunk"),
                Setting("symmetric codes", "zero-point=off"),
                *free("rotate", "none", "k", "kv"),
                Setting("q4_0", cache="q4_0"),
                Setting("q4_0, rotated", cache="q4_0_rot"),
            ),
        ),
        *POLICY_STUDIES,
    )
}


def select(name: str) -> list[Study]:
    """The study of this name, all of them for `all`; EvalError names the known ones."""
    if name == "all":
        return list(STUDIES.values())
    if name not in STUDIES:
        raise EvalError(f"unknown study '{name}'; known: {', '.join(STUDIES)}, all")
    return [STUDIES[name]]


def vary(text: str, baseline: str) -> Study:
    """A study of one option from option=a,b,c; values that hold commas themselves are parted by `;`."""
    changes = parse_changes(text)
    if len(changes) != 1:
        raise EvalError(f"'{text}' varies {len(changes)} options; one is meant: option=a,b,c")
    ((option, values),) = changes.items()
    listed = tuple(value.strip() for value in values.split(";" if ";" in values else ","))
    if not all(listed):
        raise EvalError(f"'{text}' has an empty value")
    return Study(f"vary {option}", f"{option}: {', '.join(listed)}", baseline, free(option, *listed))
