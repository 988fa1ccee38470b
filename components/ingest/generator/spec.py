"""Options of a sim:// URI."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from components.ingest.generator.real import symbols
from components.shared.telling.errors import InputError, nearest, refusing

SCHEME = "sim://"
HOST = "screen"
KEYS = ("cells", "genes", "perturbations", "lines", "seed")
CONTROLS_ONLY = "controls_only"
"""Key of the lines whose perturbed cells are left out, as of a line that was never screened."""
ESCAPE, BATCHES, PATHWAYS = "escape", "batches", "pathways"
OPTIONAL = (CONTROLS_ONLY, ESCAPE, BATCHES, PATHWAYS)
"""Keys that are in the full URI only where they are asked for."""
LINES = ("k562", "jurkat", "hepg2", "rpe1")
LEAST_CONTROLS = 20
"""Control cells per line, whatever the number of cells."""


def _number(key: str, text: str, low: int, high: int) -> int:
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise InputError(f"sim://: {key}={text}: expected a whole number from {low} to {high}")
    return int(text)


def _lines(text: str) -> tuple[str, ...]:
    if text.isdigit():
        return LINES[: _number("lines", text, 1, len(LINES))]
    lines = tuple(text.split(","))
    for line in lines:
        if line not in LINES:
            raise InputError(
                f"sim://: lines={text}: no line '{line}'{nearest(line, LINES)}; expected a number "
                f"from 1 to {len(LINES)} or names out of {','.join(LINES)}"
            )
    if len(set(lines)) != len(lines):
        raise InputError(f"sim://: lines={text}: a line is named twice; name each once")
    return lines


@dataclass(frozen=True)
class Spec:
    """Options of a sim:// URI."""

    cells: int = 4000
    genes: int = 500
    perturbations: int = 24
    lines: tuple[str, ...] = LINES
    seed: int = 0
    controls_only: tuple[str, ...] = ()
    escape: int = 0
    """Percent of the perturbed cells whose knock-down failed."""
    batches: int = 0
    """Of each line; 0 = they are not told apart, and are one."""
    pathways: int = 0
    """Dense directions that perturbations share; 0 = modules."""

    @classmethod
    def from_uri(cls, uri: str, *, seed: int = 0) -> "Spec":
        """Parse ``uri``, whose keys are checked; ``seed`` is taken where it names none."""
        parts = urlsplit(uri)
        if parts.netloc != HOST or parts.path.strip("/") or parts.fragment:
            raise InputError(f"{uri}: expected sim://{HOST}?{'=&'.join(KEYS)}=")
        pairs: list[tuple[str, str]] = []
        if parts.query:
            with refusing(ValueError, f"{uri}: expected key=value pairs joined with '&'"):
                pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
        given = dict(pairs)
        for key, _ in pairs:
            if key not in (*KEYS, *OPTIONAL):
                raise InputError(
                    f"{uri}: unknown key '{key}'{nearest(key, (*KEYS, *OPTIONAL))}; allowed: "
                    f"{', '.join((*KEYS, *OPTIONAL))}"
                )
        if len(given) != len(pairs):
            raise InputError(f"{uri}: a key is given twice; give each once")
        most = len(symbols())
        lines = _lines(given["lines"]) if "lines" in given else cls.lines
        bounds = {"cells": (1, 10**8), "genes": (20, most), "perturbations": (1, most // 2)}
        bounds |= {"seed": (0, 2**63 - 1), ESCAPE: (0, 100), BATCHES: (0, 100), PATHWAYS: (0, 1000)}
        usual = vars(cls()) | {"seed": seed}
        numbers = {
            key: _number(key, given.get(key, str(usual[key])), *ends)
            for key, ends in bounds.items()
        }
        bare = tuple(given[CONTROLS_ONLY].split(",")) if CONTROLS_ONLY in given else ()
        spec = cls(lines=lines, controls_only=bare, **numbers)
        for line in spec.controls_only:
            if line not in lines:
                raise InputError(
                    f"{uri}: {CONTROLS_ONLY}={line}: no line of the screen{nearest(line, lines)}; "
                    f"lines: {', '.join(lines)}"
                )
        least = len(lines) * (LEAST_CONTROLS + 2 * spec.perturbations)
        if spec.cells < least:
            raise InputError(
                f"{uri}: cells={spec.cells} is too few for {spec.perturbations} perturbations in "
                f"{len(lines)} lines; expected {least} or more"
            )
        return spec

    @property
    def uri(self) -> str:
        """The URI with every key."""
        names = {name: ",".join(getattr(self, name)) for name in ("lines", CONTROLS_ONLY)}
        told = vars(self) | names
        given = (f"{key}={value}" for key, value in told.items() if value or key in KEYS)
        return f"sim://{HOST}?{'&'.join(given)}"
