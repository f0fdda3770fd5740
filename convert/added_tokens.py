"""The tokens that are looked for in a text before it is cut, from all files that name some, as transformers 5 does it.

What tokenizer.json lists comes first. Behind it come, where they are not there yet, the tokens of added_tokens_decoder
or added_tokens.json, those with a name (pad_token, image_token), and extra_special_tokens, which was called
additional_special_tokens before.
"""

from __future__ import annotations

from dataclasses import replace

from hf_vocab import AddedToken, Vocab
from json_fields import Fields, wrong

STANDARD = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
EXTRA, EXTRA_BEFORE = "extra_special_tokens", "additional_special_tokens"


def add_tokens(vocab: Vocab, tokenizer: Fields, config: Fields, special_map: Fields, listed: Fields) -> None:
    """tokenizer: of tokenizer.json; config: of tokenizer_config.json; special_map: of special_tokens_map.json; listed:
    of added_tokens.json. Those that do not exist are empty. Throws ConvertError for a field of another type."""
    n_base = len(vocab.ids)
    if "added_tokens_decoder" in config.data:  # as transformers has it, which wrote all into one file then
        special_map = Fields({}, special_map.file)
    named = _named(config, special_map)
    extra = _extra(config, special_map)
    own = [_token(entry, entry.required_integer("id")) for entry in tokenizer.objects("added_tokens")]
    more = _decoder(config) if "added_tokens_decoder" in config.data else _listed(listed, [*named.values(), *extra])
    tokens = [*own, *(token for token in more if token not in own)]
    if tokenizer.data:
        tokens = _numbered(tokens, vocab, n_base)
    found = {token.content: token for token in tokens}  # the last of several
    next_id = max([n_base - 1, *(token.id for token in tokens)]) + 1
    for token in (*named.values(), *extra):
        if token.content in found or not token.content:
            continue
        id_ = vocab.ids.get(token.content, next_id)
        next_id = max(next_id, id_ + 1)
        found[token.content] = replace(token, id=id_)
    special = {token.content for token in named.values()}
    for token in found.values():
        vocab.add(replace(token, special=token.special or token.content in special))


def token_text(file: Fields, key: str) -> str | None:
    """A special token's text: the string, or an object's content."""
    if isinstance(file.data.get(key), dict):
        return file.object(key).required_text("content")
    return file.text(key)


def _numbered(tokens: list[AddedToken], vocab: Vocab, n_base: int) -> list[AddedToken]:
    """With the ids that Hugging Face's tokenizers give them, whatever the file says: that of the same text in the
    vocabulary or before, else the next one behind the vocabulary and the tokens added before."""
    next_id, ids, found = n_base, {}, []
    for token in tokens:
        id_ = ids.setdefault(token.content, vocab.ids.get(token.content, next_id))
        if id_ != token.id:
            vocab.notes.append(
                f"'{token.content}' is token {id_}, as tokenizers numbers it; the tokenizer's files say {token.id}"
            )
        next_id = max(next_id, id_ + 1)
        found.append(replace(token, id=id_))
    return found


def _decoder(config: Fields) -> list[AddedToken]:
    decoder = config.object("added_tokens_decoder")
    found = []
    for id_ in decoder.data if decoder is not None else ():
        entry = decoder.object(id_)
        if entry is None or not id_.isdecimal():
            raise decoder.wrong(id_, "an id with an object")
        found.append(_token(entry, int(id_)))
    return sorted(found, key=lambda token: token.id)


def _listed(listed: Fields, special: list[AddedToken]) -> list[AddedToken]:
    names = {token.content for token in special}
    found = []
    for content in listed.data:
        is_special = content in names
        found.append(AddedToken(listed.required_integer(content), content, is_special, normalized=not is_special))
    return found


def _token(entry: Fields, id_: int = -1, special: bool | None = None) -> AddedToken:
    """special: whatever the entry says of it."""
    special = bool(entry.flag("special")) if special is None else special
    flags = {name: bool(entry.flag(name)) for name in ("lstrip", "rstrip", "single_word")}
    normalized = bool(entry.flag("normalized", not special))
    return AddedToken(id_, entry.required_text("content"), special, normalized=normalized, **flags)


def _named(config: Fields, special_map: Fields) -> dict[str, AddedToken]:
    """Name -> token, in the order in which they are added: all are special."""
    found = {}
    for key in STANDARD:
        file = special_map if key in special_map else config
        if key in file:
            found[key] = _special(file, key)
    for file in (special_map, config):
        for key, value in file.data.items():
            if key.endswith("_token") and key not in STANDARD and isinstance(value, (str, dict)):
                found[key] = _special(file, key)
    for file in (config, special_map):
        if isinstance(file.data.get(EXTRA), dict):
            for key in file.object(EXTRA).data:
                found[key] = AddedToken(-1, file.object(EXTRA).required_text(key), special=True)
    return found


def _special(file: Fields, key: str) -> AddedToken:
    if isinstance(file.data[key], dict):
        return _token(file.object(key), special=True)
    return AddedToken(-1, token_text(file, key), special=True)


def _extra(config: Fields, special_map: Fields) -> list[AddedToken]:
    """Without names; those of the older key where the newer one is empty."""
    if isinstance(special_map.data.get(EXTRA), dict):
        return []  # they have names, and replace those without
    found = _list(config, EXTRA) or _list(config, EXTRA_BEFORE)
    found += [token for token in _list(special_map, EXTRA) if token not in found]
    return found or _list(special_map, EXTRA_BEFORE)


def _list(file: Fields, key: str) -> list[AddedToken]:
    value = file.data.get(key)
    if key == EXTRA and isinstance(value, dict):
        return []  # they have names
    if value is not None and not isinstance(value, list):
        raise file.wrong(key, "a list of tokens" + (" or an object" if key == EXTRA else ""))
    found = []
    for i, item in enumerate(value or []):
        if isinstance(item, str):
            found.append(AddedToken(-1, item, special=True))
        elif isinstance(item, dict):
            # transformers takes none without a type but from the map; the name of the list says what they are.
            entry = Fields(item, file.file, f"{file.name(key)}[{i}]")
            says = entry.flag("special") if entry.text("__type") else True
            found.append(_token(entry, special=bool(says)))
        else:
            raise wrong(file.file, f"{file.name(key)}[{i}]", item, "a token")
    return found
