"""Random Jinja programs: loops, macros, blocks and what they set, for comparison with jinja2."""

from __future__ import annotations

import random

NAMES = "abcd"
MACROS = "fg"


class Writer:
    """Programs of one seed. Each is short, and most of them run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.taken: dict[str, tuple[list[str], bool]] = {}  # of each macro its parameters, and whether it has caller()

    def program(self) -> str:
        start = "{% set ns = namespace(n=0) %}" + "".join(self.macro(2, name) for name in MACROS)
        return start + self.body(0, False) + "|" + "".join(f"{{{{ {name} }}}};" for name in NAMES) + "{{ messages|length }}"

    def one_of(self, *choices: object) -> object:
        return self.random.choice(choices)

    def name(self) -> str:
        return self.random.choice(NAMES)

    def value(self) -> str:
        return self.random.choice(
            [
                str(self.random.randrange(4)), f"'{self.name().upper()}'", self.name(), self.name(), f"{self.name()} ~ 'z'",
                f"{self.name()}|default('-')", "ns.n", f"[{self.name()}, 1]", f"({self.name()} if {self.test()} else 'e')",
                "(loop.index0 if loop is defined else 9)", "messages[1].role",
            ]
        )  # fmt: skip

    def test(self) -> str:
        return self.random.choice(
            [
                f"{self.name()} is defined", f"{self.name()} is not defined", self.name(), f"not {self.name()}",
                f"{self.name()} == 1", f"{self.name()} == {self.name()} == 1", f"{self.name()} == 'A' or ns.n == 1",
                f"1 == 1 in [{self.name()}, 1]", "loop is defined and loop.first", "true",
            ]
        )  # fmt: skip

    def body(self, depth: int, in_loop: bool) -> str:
        return "".join(self.statement(depth, in_loop) for _ in range(self.random.randrange(1, 5 if depth == 0 else 4)))

    def statement(self, depth: int, in_loop: bool) -> str:
        simple = [self.written, self.written, self.assigned, self.assigned, self.counted, self.called, self.text]
        blocks = [self.loop, self.loop, self.branch, self.branch, self.set_block, self.macro, self.macro, self.call_block,
                  self.filter_block]  # fmt: skip
        if depth < 3 and self.random.random() < 0.5:
            kind = self.random.choice(blocks)
            return kind(depth + 1, in_loop)
        if in_loop and self.random.random() < 0.1:
            return f"{{% if {self.test()} %}}<{{% {self.one_of('break', 'continue')} %}}{{% endif %}}"
        return self.random.choice(simple)()

    def text(self) -> str:
        return str(self.one_of("x", "y ", "\n"))

    def written(self) -> str:
        return f"{{{{ {self.value()} }}}}"

    def assigned(self) -> str:
        if self.random.random() < 0.1:
            return f"{{% set {self.name()}, e = {self.value()}, {self.value()} %}}"
        return f"{{% set {self.name()} = {self.value()} %}}"

    def counted(self) -> str:
        return "{% set ns.n = ns.n + 1 %}"

    def loop(self, depth: int, _: bool) -> str:
        over = self.one_of("[1, 2]", "range(3)", "messages", "[]", "['A', 'B', 'C']", f"[{self.name()}, {self.name()}]")
        only = f" if {self.name()} != 2" if self.random.random() < 0.2 else ""
        rest = f"{{% else %}}{self.body(depth, False)}" if self.random.random() < 0.2 else ""
        variable = "m" if over == "messages" else self.name()
        shown = self.one_of("{{ m.role }}", "{{ m.content }}") if over == "messages" else self.one_of("", "{{ loop.index }}")
        return f"{{% for {variable} in {over}{only} %}}{shown}{self.body(depth, True)}{rest}{{% endfor %}}"

    def branch(self, depth: int, in_loop: bool) -> str:
        other = f"{{% elif {self.test()} %}}{self.body(depth, in_loop)}" if self.random.random() < 0.3 else ""
        rest = f"{{% else %}}{self.body(depth, in_loop)}" if self.random.random() < 0.5 else ""
        return f"{{% if {self.test()} %}}{self.body(depth, in_loop)}{other}{rest}{{% endif %}}"

    def set_block(self, depth: int, _: bool) -> str:
        return f"{{% set {self.name()} %}}{self.body(depth, False)}{{% endset %}}"

    def filter_block(self, depth: int, _: bool) -> str:
        return f"{{% filter {self.one_of('upper', 'trim')} %}}{self.body(depth, False)}{{% endfilter %}}"

    def parameters(self) -> tuple[list[str], str]:
        names = self.random.sample(NAMES, self.random.randrange(4))
        first = self.random.randrange(len(names) + 1)  # with a default
        return names, ", ".join(n if i < first else f"{n}={self.value()}" for i, n in enumerate(names))

    def arguments(self, name: str) -> str:
        """Seldom too many, or of a name that there is not."""
        names = self.taken[name][0]
        n_placed = self.random.randrange(len(names) + 1) + (self.random.random() < 0.03)
        rest = [n for n in names[n_placed:] if self.random.random() < 0.5]
        self.random.shuffle(rest)
        if self.random.random() < 0.02 and (others := set(NAMES) - set(rest)):
            rest.append(self.random.choice(sorted(others)))
        return ", ".join([self.value() for _ in range(n_placed)] + [f"{n}={self.value()}" for n in rest])

    def macro(self, depth: int, which: object) -> str:
        name = which if isinstance(which, str) else self.random.choice(MACROS)
        names, written = self.parameters()
        handed = str(self.one_of("", "", "{{ caller() if caller }}", "{{ caller(1) if caller else 'no' }}"))
        body = self.body(depth + 1, False) if self.taken else self.written()
        self.taken[name] = names, bool(handed)
        return f"{{% macro {name}({written}) %}}{body}{handed}{{% endmacro %}}" + (self.called(name) if depth < 2 else "")

    def called(self, name: str | None = None) -> str:
        name = name or self.random.choice(list(self.taken))
        call = f"{name}({self.arguments(name)})"
        return str(self.one_of(f"{{{{ {call} }}}}", f"{{{{ {call}|trim }}}}", f"{{% set {self.name()} = {call} %}}"))

    def call_block(self, depth: int, _: bool) -> str:
        wanted = [name for name, (_, has_caller) in self.taken.items() if has_caller] or list(self.taken)
        name = self.random.choice(wanted)
        given = f"({self.parameters()[1]})" if self.random.random() < 0.4 else ""
        return f"{{% call{given} {name}({self.arguments(name)}) %}}{self.body(depth, False)}{{% endcall %}}"
