"""The one parameter `prior`: what it may say, taken apart and put together again.

    none                            genes are known by their own embedding alone
    table:<uri>                     a vector a gene from a file; a bare uri of a table will do
    graph:<uri>                     pairs of genes, embedded
    annotation:<uri>                genes and their terms, embedded
    esm2:<checkpoint>?fasta=<uri>   protein sequences, embedded by ESM2
    scgpt                           the pretrained checkpoint's own gene embeddings
    random:<width>                  drawn by the seed
    shuffled:<prior>                the same vectors, dealt to other genes
    concat(<prior>, <prior>, ...)   side by side
    effects, effects:<uri>          what perturbations did in the training lines, or in other cells

Options follow as in a web address: `graph:pairs.csv?width=64&columns=left+right`. In their values
`&`, `%`, `,`, `(` and `)` are written `%26`, `%25`, `%2C`, `%28` and `%29`, and `+` separates; in a
URI in a concat, commas and parentheses that do not pair are written so too. A web address keeps its
own query, which ends where the first of our options begins:
`graph:https://host/pairs.csv?sig=1?width=64`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote

from components.shared.storage.downloads import shown
from components.shared.storage.files import ALLOWED, ending_of
from components.shared.telling.addresses import scheme_of
from components.shared.telling.errors import InputError, nearest

NONE, TABLE, GRAPH, ANNOTATION, ESM2 = "none", "table", "graph", "annotation", "esm2"
SCGPT, RANDOM, SHUFFLED, CONCAT, EFFECTS = "scgpt", "random", "shuffled", "concat", "effects"

FORMS = {
    NONE: "none",
    TABLE: "table:<uri>",
    GRAPH: "graph:<uri>",
    ANNOTATION: "annotation:<uri>",
    ESM2: "esm2:<checkpoint>?fasta=<uri>",
    SCGPT: "scgpt",
    RANDOM: "random:<width>",
    SHUFFLED: "shuffled:<prior>",
    CONCAT: "concat(<prior>, <prior>, ...)",
    EFFECTS: "effects or effects:<uri>",
}
"""Kind of prior to how it is written, options aside."""

WIDTH, COLUMNS, EVIDENCE, ALIASES, FASTA = "width", "columns", "evidence", "aliases", "fasta"
OPTIONS = {
    TABLE: (ALIASES,),
    GRAPH: (WIDTH, COLUMNS, ALIASES),
    ANNOTATION: (WIDTH, COLUMNS, EVIDENCE, ALIASES),
    ESM2: (FASTA, ALIASES),
}
"""Kind to the options it takes."""
URI_OPTIONS = (ALIASES, FASTA)

TABLE_ENDINGS = (".safetensors", ".npz", ".parquet", ".pt")
"""A bare URI that ends so is a table."""
WIDEST = 8192
DEEPEST = 8
"""How far priors may be nested: more is a mistake, and would cost the parser its stack."""
RESERVED = {",": "%2C", "(": "%28", ")": "%29"}
PLAIN = "/:+?=#@!$'*;~"
"""Characters that an option's value may hold as they are."""


@dataclass(frozen=True)
class Prior:
    """A prior as it was requested; its `str` is an equivalent text."""

    kind: str
    argument: str = ""
    """The text after the colon: a URI, or the width of a random prior."""
    options: Mapping[str, str] = field(default_factory=dict)
    members: tuple["Prior", ...] = ()
    """Of concat, or the one that is shuffled."""

    def __str__(self) -> str:
        if self.kind == CONCAT:
            return f"{CONCAT}({', '.join(str(member) for member in self.members)})"
        if self.kind == SHUFFLED:
            return f"{SHUFFLED}:{self.members[0]}"
        colon = f":{_escaped(self.argument)}" if self.argument else ""
        options = "&".join(f"{k}={quote(v, safe=PLAIN)}" for k, v in self.options.items())
        return f"{self.kind}{colon}{'?' if options else ''}{options}"

    @property
    def shown(self) -> str:
        """The text as it may be printed and kept: no digests, no secrets of signed URLs."""
        return str(with_uris(self, shown)).replace(quote("…"), "…")

    def walk(self) -> Iterator["Prior"]:
        """Yield this prior and all it is made of."""
        yield self
        for member in self.members:
            yield from member.walk()


def parse_prior(text: str) -> Prior:
    """Take the parameter `prior` apart; what is not written as the module says is refused."""
    prior = _parse(text.strip(), 1)
    if sum(part.kind == EFFECTS for part in prior.walk()) > 1:
        raise InputError("prior: effects comes more than once; give it once")
    return prior


def uris(prior: Prior) -> list[str]:
    """Return every URI and path that the prior reads, in order."""
    found: list[str] = []
    with_uris(prior, lambda uri: found.append(uri) or uri)  # type: ignore[func-returns-value]
    return found


def with_uris(prior: Prior, change: Callable[[str], str]) -> Prior:
    """Return the prior with every URI changed, such as by a digest at its end."""
    argument = prior.argument
    return replace(
        prior,
        argument=change(argument) if argument and prior.kind != RANDOM else argument,
        options={k: change(v) if k in URI_OPTIONS else v for k, v in prior.options.items()},
        members=tuple(with_uris(member, change) for member in prior.members),
    )


def effects_of(prior: Prior) -> Prior | None:
    """Return the part that requests the effects of perturbations, if any does."""
    return next((part for part in prior.walk() if part.kind == EFFECTS), None)


def gene_part(prior: Prior) -> Prior:
    """Return what makes a vector a gene: no effects, nested concats flat, none if nothing is left.

    Columns keep their order.
    """
    parts = tuple(_gene_parts(prior))
    if len(parts) == 1:
        return parts[0]
    return Prior(CONCAT, members=parts) if parts else Prior(NONE)


def _gene_parts(prior: Prior) -> Iterator[Prior]:
    if prior.kind == CONCAT:
        for member in prior.members:
            yield from _gene_parts(member)
    elif prior.kind not in (NONE, EFFECTS):
        yield prior


def _parse(text: str, depth: int) -> Prior:
    if depth > DEEPEST:
        raise InputError(f"prior: nested more than {DEEPEST} deep; write it flatter")
    kind, sign, rest = _split_kind(text)
    if kind == CONCAT:
        return _concat(sign, rest, depth)
    if kind == SHUFFLED:
        return _shuffled(sign, rest, depth)
    if kind in (NONE, SCGPT):
        if sign:
            raise InputError(f"prior '{kind}{sign}…': nothing may follow; write {FORMS[kind]}")
        return Prior(kind)
    if not sign and kind == EFFECTS:
        return Prior(EFFECTS)
    argument, options = _split_options(kind, rest)
    if sign != ":" or not argument:
        raise InputError(f"prior '{kind}{sign}': is incomplete; expected {FORMS[kind]}")
    if kind == RANDOM:
        return Prior(RANDOM, str(_whole(argument, "prior 'random:…'")))
    if kind == TABLE and ending_of(argument) not in TABLE_ENDINGS:
        raise InputError(
            f"prior 'table:{shown(argument)}': expected a file that ends in "
            f"{', '.join(TABLE_ENDINGS)}; for pairs or terms write {FORMS[GRAPH]} or "
            f"{FORMS[ANNOTATION]}"
        )
    if kind == ESM2 and FASTA not in options:
        raise InputError(f"prior '{ESM2}:…': needs the protein sequences; expected {FORMS[ESM2]}")
    return Prior(kind, argument, options)


def _split_kind(text: str) -> tuple[str, str, str]:
    """Return kind, the sign after it and the rest; a bare URI of a table is the kind table."""
    word, sign, rest = re.fullmatch(r"([^:(]*)([:(]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    word = word.strip()
    if word in FORMS and not rest.startswith("//"):
        return word, sign, rest.strip()
    # A colon after a plain word is a kind that is none, not the name of a file with a colon in it.
    misspelt = sign == ":" and word.isidentifier() and not rest.startswith("//")
    bare = re.split(rf"\?(?:{'|'.join(OPTIONS[TABLE])})=", text, maxsplit=1)[0]
    if ending_of(bare) in TABLE_ENDINGS and not misspelt:
        return TABLE, ":", text
    # No more than the word: what follows may be a signed URL.
    said = shown(text) if scheme_of(text) else word[:60] + (f"{sign}…" if sign else "")
    hint = "" if scheme_of(text) else nearest(word, FORMS)
    raise InputError(
        f"prior '{said}' is unknown{hint}; allowed: {', '.join(FORMS.values())}, or the bare uri "
        f"of a table that ends in {', '.join(TABLE_ENDINGS)}; a uri is {ALLOWED}"
    )


def _concat(sign: str, rest: str, depth: int) -> Prior:
    if sign != "(" or not rest.endswith(")"):
        raise InputError(f"prior '{CONCAT}…': expected {FORMS[CONCAT]}, closed at the end")
    texts = _split_members(rest[:-1])
    if not all(texts):
        raise InputError(f"prior '{CONCAT}…': has an empty member; expected {FORMS[CONCAT]}")
    return Prior(CONCAT, members=tuple(_parse(text, depth + 1) for text in texts))


def _split_members(text: str) -> list[str]:
    """Split at the commas that are in no parentheses."""
    parts, level = [""], 0
    for letter in text:
        level += (letter == "(") - (letter == ")")
        if level < 0:
            break
        if letter == "," and not level:
            parts.append("")
        else:
            parts[-1] += letter
    if level:
        raise InputError(
            f"prior '{CONCAT}…': parentheses do not pair; in a URI write them {RESERVED['(']} and "
            f"{RESERVED[')']}"
        )
    return [part.strip() for part in parts]


def _shuffled(sign: str, rest: str, depth: int) -> Prior:
    if sign != ":" or not rest:
        raise InputError(f"prior '{SHUFFLED}{sign}…': expected {FORMS[SHUFFLED]}")
    inner = _parse(rest, depth + 1)
    if effects_of(inner):
        raise InputError(
            f"prior '{SHUFFLED}:…': effects are not gene vectors; "
            f"write {CONCAT}({EFFECTS}, {SHUFFLED}:<prior>)"
        )
    if gene_part(inner).kind == NONE:
        raise InputError(f"prior '{SHUFFLED}:…': there is nothing to shuffle in {NONE}")
    return Prior(SHUFFLED, members=(inner,))


def _split_options(kind: str, rest: str) -> tuple[str, dict[str, str]]:
    """Split what follows the colon into the argument and the options."""
    allowed = OPTIONS.get(kind, ())
    start = rest.find("?")
    if scheme_of(rest) in ("http", "https"):
        ours = re.search(rf"\?(?=(?:{'|'.join(allowed)})=)", rest) if allowed else None
        start = ours.start() if ours else -1
    if start < 0:
        return _unescaped(rest), {}
    options: dict[str, str] = {}
    for pair in rest[start + 1 :].split("&"):
        key, value = (parse_qsl(pair.replace("+", "%2B"), keep_blank_values=True) or [("", "")])[0]
        where = f"prior '{kind}:…?{key}=…'"
        if key not in allowed:
            raise InputError(
                f"{where}: '{key}' is not an option of {kind}{nearest(key, allowed)}; "
                f"allowed: {', '.join(allowed) or 'none'}"
            )
        if key in options or not value:
            raise InputError(f"{where}: expected one non-empty '{key}'")
        options[key] = _checked(key, value, where)
    return _unescaped(rest[:start].rstrip()), options


def _checked(key: str, value: str, where: str) -> str:
    if key == WIDTH:
        return str(_whole(value, where))
    if key == COLUMNS and not (value.count("+") == 1 and all(value.split("+"))):
        raise InputError(f"{where}: expected two names of columns with a + between, as in a+b")
    if key == EVIDENCE and not re.fullmatch(r"[A-Z]+(\+[A-Z]+)*", value):
        raise InputError(f"{where}: expected evidence codes with a + between, as in EXP+IDA")
    return value


def _whole(text: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= WIDEST:
        raise InputError(f"{where}: width '{text[:20]}' is not a whole number from 1 to {WIDEST}")
    return int(text)


def _escaped(uri: str) -> str:
    return "".join(RESERVED.get(letter, letter) for letter in uri)


def _unescaped(uri: str) -> str:
    for letter, code in RESERVED.items():
        uri = re.sub(code, letter, uri, flags=re.IGNORECASE)
    return uri
