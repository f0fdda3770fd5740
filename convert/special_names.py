"""The special tokens that the files beside tokenizer.json name, merged as transformers 5 merges them.

It keeps apart what is only a text and what is a token with flags, and what is null and what is not there: a text never
replaces a token's flags, and null hides the name that a class would give.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_vocab import AddedToken
from json_fields import Fields, wrong

STANDARD = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
EXTRA, EXTRA_BEFORE, OWN_NAMES = "extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"
DECODER = "added_tokens_decoder"

Value = str | AddedToken  # a text alone, or with flags


@dataclass
class SpecialNames:
    named: dict[str, Value] = field(default_factory=dict)  # name -> token, in the order in which they are added
    extra: list[Value] = field(default_factory=list)  # without names
    listed: list[AddedToken] = field(default_factory=list)  # with ids, in the order of these
    said: set[str] = field(default_factory=set)  # the names that a file gives, and no class

    def text(self, name: str) -> str | None:
        return text_of(self.named[name]) if name in self.named else None


@dataclass
class Files:
    """Those that do not exist are empty."""

    tokenizer: Fields  # tokenizer.json
    config: Fields  # tokenizer_config.json
    special_map: Fields  # special_tokens_map.json
    added: Fields  # added_tokens.json


def same(one: Value, other: Value) -> bool:
    """A text alone is not a token of that text."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one.settled() == other.settled()


def text_of(value: Value) -> str:
    return value if isinstance(value, str) else value.content


def read_token(entry: Fields, id_: int = -1, special: bool | None = None) -> AddedToken:
    """special: whatever the entry says of it."""
    special = bool(entry.flag("special")) if special is None else special
    flags = {name: bool(entry.flag(name)) for name in ("lstrip", "rstrip", "single_word")}
    return AddedToken(id_, entry.required_text("content"), special, normalized=entry.flag("normalized"), **flags)


def read_special_names(
    files: Files, defaults: dict[str, str | None], listed_too: tuple[str, ...], pieces: list[AddedToken] | None
) -> SpecialNames:
    """defaults: name -> token, of the class, where no file has the name; listed_too: which of them are listed without a
    name as well; pieces: the control and user-defined tokens of a tokenizer.model that is read. Throws ConvertError for
    a field of another type."""
    merged = _Merged(files.config)
    if DECODER in files.config.data:  # as transformers has it, which wrote all into one file then
        listed = _decoder(files.config)
        by_text = {token.content: token for token in listed.values()}
    else:
        merged.add_map(files.special_map)
        listed, by_text = _listed(files, merged.plain_texts())
    given = {name: by_text.get(text_of(value), value) if value else value for name, value in merged.standard.items()}
    unnamed = merged.extra
    if unnamed is None:
        unnamed = merged.extra_before if pieces is None else list(pieces)
        unnamed += [value for name in listed_too if (value := merged.others.get(name, defaults[name]))]
    padding = files.tokenizer.object("padding")
    if padding is not None and "pad_token" not in defaults:
        defaults = defaults | {"pad_token": padding.text("pad_token")}
    standard = {name: given.get(name, defaults.get(name)) for name in STANDARD}
    own = {name: text for name, text in defaults.items() if name not in STANDARD}
    named = {**standard, **own, **merged.others, **merged.own}
    return SpecialNames(
        named={name: value for name, value in named.items() if value is not None},
        extra=unnamed,
        listed=[listed[id_] for id_ in sorted(listed)],
        said={name for name, value in {**given, **merged.others, **merged.own}.items() if value is not None},
    )


class _Merged:
    """What tokenizer_config.json names, and then special_tokens_map.json."""

    def __init__(self, config: Fields) -> None:
        self.standard: dict[str, Value | None] = {}
        self.own: dict[str, Value] = {}  # other names than the standard ones, which win over `others`
        self.others: dict[str, Value | None] = {}
        self.extra: list[Value] | None = None  # None: no file has the key
        self.extra_before: list[Value] = []
        self._objects: list[AddedToken] = []  # what tokenizer_config.json has with flags
        for key, value in config.data.items():
            if key in STANDARD:
                self.standard[key] = self._kept(_token(config, key)) if isinstance(value, dict) else config.text(key)
            elif key.endswith("_token") and isinstance(value, str):
                self.own[key] = value
            elif key.endswith("_token") and isinstance(value, dict) and "__type" in value:
                self.others[key] = _token(config, key)
            elif key.endswith("_token") and value is None:
                self.others[key] = None
        extra = config.data.get(EXTRA)
        if EXTRA_BEFORE in config.data and not extra:
            self.extra = _list(config, EXTRA_BEFORE)
        elif isinstance(extra, dict):
            self.own |= _texts(config, EXTRA)
            self.extra_before = _list(config, EXTRA_BEFORE)
        elif EXTRA in config.data:
            self.extra = _list(config, EXTRA)
        self._objects += [token for token in self.extra or [] if isinstance(token, AddedToken)]
        if not self.own and OWN_NAMES in config:
            names = config.object(OWN_NAMES)
            for key, value in names.data.items():
                self.own[key] = _token(names, key) if isinstance(value, dict) else names.required_text(key)

    def add_map(self, special_map: Fields) -> None:
        for key, value in special_map.data.items():
            if key == EXTRA and isinstance(value, dict):  # they have names, and replace those without
                self.extra = None
                self.own |= _texts(special_map, key)
            elif key == EXTRA:
                self.extra = self.extra or [] if value is not None else []
                for token in _list(special_map, key):
                    if not any(same(token, other) for other in self.extra):
                        self.extra.append(token)
            elif key == EXTRA_BEFORE:
                self.extra_before = _list(special_map, key)
            elif key in STANDARD:
                is_object = isinstance(value, dict)
                self.standard[key] = _token(special_map, key, special=True) if is_object else special_map.text(key)
            elif key.endswith("_token") and (value is None or isinstance(value, (str, dict))):
                self.others[key] = _token(special_map, key, special=True) if isinstance(value, dict) else value

    def plain_texts(self) -> set[str]:
        """The tokens that added_tokens.json takes for special: not those of other names, nor objects in
        tokenizer_config.json, which transformers does not look into."""
        values = [*self.standard.values(), *(self.extra or [])]
        return {text_of(value) for value in values if value and not any(value is object_ for object_ in self._objects)}

    def _kept(self, token: AddedToken) -> AddedToken:
        self._objects.append(token)
        return token


def _token(file: Fields, key: str, special: bool | None = None) -> AddedToken:
    """One with a type says whether it is special; transformers takes none without a type but from the map, and the name
    says what it is."""
    entry = file.object(key)
    return read_token(entry, special=special if special or entry.text("__type") else True)


def _texts(file: Fields, key: str) -> dict[str, Value]:
    names = file.object(key)
    return {name: names.required_text(name) for name in names.data}


def _list(file: Fields, key: str) -> list[Value]:
    value = file.data.get(key)
    if value is not None and not isinstance(value, list):
        raise file.wrong(key, "a list of tokens" + (" or an object" if key == EXTRA else ""))
    found: list[Value] = []
    for i, item in enumerate(value or []):
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            entry = Fields(item, file.file, f"{file.name(key)}[{i}]")
            found.append(read_token(entry, special=None if entry.text("__type") else True))
        else:
            raise wrong(file.file, f"{file.name(key)}[{i}]", item, "a token")
    return found


def _decoder(config: Fields) -> dict[int, AddedToken]:
    decoder = config.object(DECODER)
    found = {}
    for id_ in decoder.data if decoder is not None else ():
        entry = decoder.object(id_)
        if entry is None or not id_.isdecimal():
            raise decoder.wrong(id_, "an id with an object")
        found[int(id_)] = read_token(entry, int(id_))
    return found


def _listed(files: Files, special: set[str]) -> tuple[dict[int, AddedToken], dict[str, AddedToken]]:
    """By id and by text: those of added_tokens.json, and over them those of tokenizer.json."""
    found, by_text = {}, {}
    for content in files.added.data:
        is_special = content in special
        token = AddedToken(files.added.required_integer(content), content, is_special, normalized=not is_special)
        found[token.id] = by_text[content] = token
    for entry in files.tokenizer.objects("added_tokens"):
        token = read_token(entry, entry.required_integer("id"))
        found[token.id] = by_text[token.content] = token
    return found, by_text
