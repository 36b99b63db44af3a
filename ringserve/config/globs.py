"""Globs for the paths of a configuration: which ones a rule is about, and what its stars stood for.

    /about          this path
    *.html          this name in any directory: a glob without a leading slash holds at every depth
    /docs/*         what is directly in /docs/
    /assets/**      everything below /assets/, at any depth
    /img/?.{png,jpg}  one character, and either ending

`*` and `?` stop at a slash, `**` does not. Every star captures what it stood for, which is as little as possible; `$1`
is the first one's.

Paths come from anybody, so no path may keep a glob busy for long. With a plain translation one does: `*-*-*.png` took
13 s over 2,000 hyphens, since each length of a star is tried with each length of the next. But what the next star can
absorb needs no second try. So, as in Python's fnmatch, a star and what follows it up to the next one are an atomic
group, settled at the first place where it fits. Here are two kinds of stars: `*` cannot absorb a slash, so `**` is
settled only if there is another `**` to come. What is left takes at most the square of the path's length. Alternatives
end at different places and cannot be settled; where they stand among stars, the number of stars is limited instead.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\*\*|\*|\?|\{[^{}]*\}|[^*?{]+")
_ALTERNATIVES = re.compile(r"\{[^{}]*\}")
_ROOTED_ALTERNATIVE = re.compile(r"\{(?:[^{}]*,)?(?:/|\*\*)")
_ANYWHERE = "**/"
"""Stands before a glob without a leading slash. `_TOKEN` never makes it of what is written: it takes stars alone."""
_STARS = {"*": "([^/]*?)", "**": "((?s:.*?))", _ANYWHERE: "(?s:.*?/)"}
_ONE_CHARACTER = r"[^/\x80-\xbf][\x80-\xbf]*+"
"""Of UTF-8: a byte that does not continue a character, and those that continue it."""
UNSETTLED_STARS_MAX = 2
REFERENCE = re.compile(r"\$(\d)")
"""In the target of a redirect or a rewrite: what the star of that number stood for."""
_REFERENCE_BYTES = re.compile(REFERENCE.pattern.encode())


class GlobError(ValueError):
    """A glob that cannot be read. The message says what is wrong with it."""


def compile_glob(glob: str) -> re.Pattern[bytes]:
    """The regular expression that matches whole paths (`fullmatch`), each with its leading slash, as bytes.

    One group for each star, in order; that of a star in an alternative that was not taken is None. Raises GlobError.
    """
    if not glob:
        raise GlobError("an empty glob matches nothing; '**' matches everything")
    if "{" in _ALTERNATIVES.sub("", glob):
        raise GlobError(f"a brace within braces, or one that is not closed, in {glob!r}")
    if _ROOTED_ALTERNATIVE.match(glob):
        raise GlobError(f"a slash or `**` at the beginning of an alternative in {glob!r}; write it before the braces")
    tokens = _TOKEN.findall(glob)
    if not glob.startswith(("/", "**")):
        tokens.insert(0, _ANYWHERE)
    settled = not _has_alternatives_among_stars(tokens)
    if not settled and _unsettled_stars(tokens) > UNSETTLED_STARS_MAX:
        raise GlobError(f"too many stars around alternatives in {glob!r}; write a glob for each alternative")
    return re.compile(_translate(tokens, settled).encode())


def compile_with_contents(glob: str) -> re.Pattern[bytes]:
    """As `compile_glob`, and for what lies in a directory that the glob is about, with its slash or without.

    One pattern for the path, and not one try for each directory above it: of those a path can have 4,000.
    """
    return re.compile(compile_glob(glob).pattern + rb"(?:(?:(?<=/)|/)(?s:.*))?")


def _has_alternatives_among_stars(tokens: list[str]) -> bool:
    stars = [index for index, token in enumerate(tokens) if token in _STARS]
    return any(
        token[0] == "{" and ("*" in token or (stars and stars[0] < index < stars[-1]))
        for index, token in enumerate(tokens)
    )


def _unsettled_stars(tokens: list[str]) -> int:
    """How many stars can multiply. Those of different alternatives cannot."""
    count = 0
    for token in tokens:
        if token[0] == "{":
            count += max(sum(part in _STARS for part in alternative) for alternative in _alternatives(token))
        elif token == _ANYWHERE:
            # Unless there is a `**`, each directory is gone through but once.
            count += any("**" in other for other in tokens if other != _ANYWHERE)
        else:
            count += token in _STARS
    return count


def _alternatives(token: str) -> list[list[str]]:
    return [_TOKEN.findall(alternative) for alternative in token[1:-1].split(",")]


def _translate(tokens: list[str], settled: bool) -> str:
    pieces: list[str] = []
    unclosed: list[bool] = []  # of the atomic groups, outermost first: whether it is one of a `**`
    for index, token in enumerate(tokens):
        if token in _STARS:
            crosses_slashes = token != "*"
            # One of a `**` ends at the next `**`, one of a `*` at any star; so these are always within those.
            while unclosed and (crosses_slashes or not unclosed[-1]):
                unclosed.pop()
                pieces.append(")")
            later = tokens[index + 1 :]
            if settled and ("**" in later or (not crosses_slashes and "*" in later)):
                unclosed.append(crosses_slashes)
                pieces.append("(?>")
            pieces.append(_STARS[token])
        elif token == "?":
            pieces.append(_ONE_CHARACTER)
        elif token[0] == "{":
            pieces.append("(?:" + "|".join(_translate(each, settled=False) for each in _alternatives(token)) + ")")
        else:
            pieces.append(re.escape(token))
    return "".join(pieces)


def fill_in(template: str, captured: tuple[bytes, ...], quote: bool) -> bytes:
    """`template` with `$1` to `$9` replaced by what was captured.

    captured: what each star stood for; no None (`match.groups(b"")`). quote: percent-encode what is put in, for a URL;
    its slashes stay, and in a query what separates its parameters does not.
    """
    from urllib.parse import quote_from_bytes

    def put(match: re.Match[bytes]) -> bytes:
        value = captured[int(match[1]) - 1]
        safe = "/!$'()*,:@~-._" if "?" in template[: match.start()] else "/!$&'()*+,;=:@~-._"
        return quote_from_bytes(value, safe=safe).encode() if quote else value

    # In bytes, since what was captured need not be UTF-8, and the template may be anything of it.
    return _REFERENCE_BYTES.sub(put, template.encode())


def check_references(template: str, glob: str) -> None:
    """Raise GlobError if `template` refers to a star that `glob` does not have, or `glob` cannot be read."""
    stars = compile_glob(glob).groups
    for match in REFERENCE.finditer(template):
        number = int(match[1])
        if not 1 <= number <= stars:
            has = f"{stars} star{'s' if stars > 1 else ''}" if stars else "no stars"
            raise GlobError(f"{template!r} refers to ${number}, and {glob!r} has {has}")
