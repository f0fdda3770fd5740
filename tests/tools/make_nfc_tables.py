#!/usr/bin/env python3
"""Writes engine/model/nfc_tables.h from Unicode's character database, as the package unicodedata2 has it.

    pip install unicodedata2 && tests/tools/make_nfc_tables.py > engine/model/nfc_tables.h
"""

import unicodedata2 as unicode

HANGUL = range(0xAC00, 0xD7A4)  # by rule
CHARACTERS = [c for c in range(0x110000) if c not in HANGUL]


def mappings() -> list[str]:
    found = []
    for c in CHARACTERS:
        decomposition = unicode.decomposition(chr(c))
        if decomposition and not decomposition.startswith("<"):
            parts = [int(part, 16) for part in decomposition.split()]
            composes = unicode.normalize("NFC", "".join(map(chr, parts))) == chr(c)
            first, second = (*parts, 0)[:2]
            found.append(f"{{0x{c:X}, 0x{first:X}, 0x{second:X}, {int(composes)}}}")
    return found


def classes() -> list[str]:
    runs: list[list[int]] = []
    for c in CHARACTERS:
        class_ = unicode.combining(chr(c))
        if class_ and runs and runs[-1][1] == c - 1 and runs[-1][2] == class_:
            runs[-1][1] = c
        elif class_:
            runs.append([c, c, class_])
    return [f"{{0x{first:X}, 0x{last:X}, {class_}}}" for first, last, class_ in runs]


def table(entries: list[str]) -> str:
    lines = [""]
    for entry in entries:
        if len(lines[-1]) + len(entry) + 2 > 116:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + entry + ","
    return "\n".join("    " + line for line in lines)


print(f"""#pragma once

// Of Unicode {unicode.unidata_version}, made by tests/tools/make_nfc_tables.py.

namespace livekv::nfc {{

// clang-format off
// Canonical decompositions but for those of Hangul, by character. second: 0 where there is none.
// composes: whether the two also become the character again.
struct mapping {{
    char32_t character, first, second;
    bool composes;
}};
inline constexpr mapping mappings[] = {{
{table(mappings())}
}};

// Characters from first to last have this combining class; those of no run have 0.
struct class_run {{
    char32_t first, last;
    unsigned char combining_class;
}};
inline constexpr class_run class_runs[] = {{
{table(classes())}
}};
// clang-format on

}}  // namespace livekv::nfc""")
