"""What the configuration says of a path: redirects, rewrites, protection, caching and fields. Pure.

A rule's globs are matched with the path that was asked for, with its leading slash, decoded and without dot segments.
Fields are also given by the path of the file that answers, so that `*.html` is about `/` too; Cache-Control goes by the
file's path alone, since it is the file that is stored, whatever address it was found at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ringserve.config.glob_index import GlobIndex
from ringserve.config.globs import fill_in
from ringserve.config.rules import AuthRule
from ringserve.config.settings import Config, SiteConfig
from ringserve.http.heads import Preflight, RequestLine
from ringserve.http.negotiation import CODINGS
from ringserve.http.response import NO_CACHE, Fields, Response, replaced, varying
from ringserve.http.semantics import ALLOWED, LIST_MEMBERS_MAX, Location, locate, quote_query

IMMUTABLE = b"public, max-age=31536000, immutable"
_SHARING = frozenset((b"public", b"s-maxage", b"must-revalidate"))
"""Directives that let a shared cache store what was asked for with credentials (RFC 9111 3.5)."""
_HASHED = re.compile(rb"[.-](?=[0-9a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8,64}(?:\.[A-Za-z][A-Za-z0-9]*){1,2}\Z")
"""A name with a hash of its content, as bundlers make them: `app.3f9a1c2b.js`. Digits and letters both, because a name
with a date in it (`report-20261122.pdf`) is no such name, and neither is one with a word."""

SECURITY_FIELDS: Fields = (
    (b"Content-Security-Policy", b"frame-ancestors 'self'; object-src 'none'; base-uri 'self'"),
    (b"X-Frame-Options", b"SAMEORIGIN"),
    (b"Referrer-Policy", b"strict-origin-when-cross-origin"),
    (b"Permissions-Policy", b"camera=(), geolocation=(), microphone=()"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
)
"""What no site misses: it can be framed by itself only, loads no plugins, and asks for no camera. A policy for scripts
is the site's own to write; HSTS belongs to whoever terminates TLS (RFC 6797 7.2)."""
EXPOSED = b"Accept-Ranges, Content-Encoding, Content-Range, ETag"
"""What a script of another origin may read beside the safelisted fields."""
PREFLIGHT_SECONDS = b"86400"
HOST_BYTES_MAX = 255
"""No name in the DNS is longer (RFC 1035 2.3.4), and one of 32 KiB of dots would be looked for 16,000 times."""
_FIELD_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


class ProtectedArea:
    """A protected part of a site (RFC 7617). users: the hash of the password by name."""

    def __init__(self, rule: AuthRule) -> None:
        self.users = {name.encode(): password_hash for name, password_hash in rule.users}
        self.challenge = b'Basic realm="%s", charset="UTF-8"' % rule.realm.encode()


class Redirection(NamedTuple):
    """Where a path has moved to. reference: an absolute path or a URL, percent-encoded."""

    status: int
    reference: bytes


class Site:
    """One site's configuration, compiled.

    root: the number of its directory in the file table. moves: it has redirects or rewrites. protects: it has protected
    areas.
    """

    def __init__(self, config: SiteConfig, root: int = 0) -> None:
        self.config = config
        self.root = root
        self.listing = config.listing
        self.spa = config.spa
        self.clean_urls = config.clean_urls
        self.moves = bool(config.redirects or config.rewrites)
        self.protects = bool(config.auth)
        self._redirects = _index((rule.source,) for rule in config.redirects)
        self._rewrites = _index((rule.source,) for rule in config.rewrites)
        self._guards = [ProtectedArea(rule) for rule in config.auth]
        # A rule for `/private` also covers everything below it.
        self._guarded = _index((rule.paths for rule in config.auth), contents=True)
        self._cache = [rule.control.encode() for rule in config.cache]
        self._cached = _index(rule.paths for rule in config.cache)
        self._headers = [[(name.encode(), value.encode()) for name, value in rule.fields] for rule in config.headers]
        self._with_headers = _index(rule.paths for rule in config.headers)
        self._headers_of_all = frozenset(
            number for number, rule in enumerate(config.headers) if not {"**", "/**"}.isdisjoint(rule.paths)
        )
        self._origins = frozenset(origin.encode() for origin in config.cors_origin)
        self._preset = SECURITY_FIELDS if config.security_headers else ()

    @property
    def is_even(self) -> bool:
        """Whether nothing is said of any path that is not said of all."""
        of_all = len(self._headers_of_all) == len(self._headers)
        return of_all and not (self.moves or self.protects or self.spa or self.clean_urls)

    def redirect(self, location: Location, line: RequestLine) -> Redirection | None:
        """Where the configuration sends this location. The query of the request line goes along, unless the new address
        has its own.
        """
        found = self._redirects.first(b"/" + location.path)
        if found is None:
            return None
        number, match = found
        rule = self.config.redirects[number]
        reference = fill_in(rule.target, match.groups(b""), quote=True)
        if reference.startswith(b"//"):
            reference = b"/" + reference.lstrip(b"/")  # what a star stood for must not name a host
        address, mark, fragment = reference.partition(b"#")
        query = b"" if b"?" in address else quote_query(line.query)
        return Redirection(rule.status, address + query + mark + fragment)

    def has_fields_for(self, path: bytes) -> bool:
        """Whether a path, without its leading slash, is given fields that others are not."""
        return bool(self._headers) and bool(self._with_headers.all(b"/" + path))

    def rewrite(self, location: Location) -> Location | None:
        """The location that answers for this one; None if it answers for itself. Raises TargetError."""
        found = self._rewrites.first(b"/" + location.path)
        if found is None:
            return None
        number, match = found
        # Located anew: what the stars stood for must not add up to a dotfile or to a way out.
        return locate(fill_in(self.config.rewrites[number].target, match.groups(b""), quote=True))

    def guard(self, path: bytes) -> ProtectedArea | None:
        """The rule that protects a path (without its leading slash), if one does. A precompressed file is protected as
        its source is, since a client that reads the one has read the other.
        """
        if not self.protects:
            return None
        names = [path, *(path.removesuffix(ending) for ending in CODINGS.values() if path.endswith(ending))]
        if self.clean_urls:
            names += [name.removesuffix(b".html") for name in names if name.endswith(b".html")]
        numbers = [found[0] for name in names if (found := self._guarded.first(b"/" + name)) is not None]
        return self._guards[min(numbers)] if numbers else None

    def cache_control(self, path: bytes, guarded: bool) -> tuple[bytes, bytes]:
        """The Cache-Control field of a file, by its path without the leading slash."""
        default = IMMUTABLE if _HASHED.search(path) else NO_CACHE[1]
        found = self._cached.first(b"/" + path)
        control = default if found is None else self._cache[found[0]]
        return b"Cache-Control", _for_one_reader(control) if guarded else control

    def preflight(self, origin: bytes | None, asked: Preflight) -> Fields:
        """What a preflight learns (https://fetch.spec.whatwg.org/, 3.3.3); nothing if it is not allowed."""
        if origin is None or self._origins.isdisjoint((b"*", origin)):
            return ()
        fields: Fields = (
            (b"Access-Control-Allow-Methods", ALLOWED),
            (b"Access-Control-Max-Age", PREFLIGHT_SECONDS),
        )
        names = asked.field_names
        if names is not None and names.count(b",") < LIST_MEMBERS_MAX and _FIELD_NAMES.fullmatch(names):
            fields = (*fields, (b"Access-Control-Allow-Headers", names))
        return varying(fields, b"Access-Control-Request-Method", b"Access-Control-Request-Headers")

    def dress(self, response: Response, paths: tuple[bytes, ...], origin: bytes | None) -> Response:
        """The response with the fields that the configuration adds.

        paths: what was asked for and the file that answers, without their leading slashes; none for a request that
        could not be read, which gets what is said of everything.
        """
        fields = response.fields
        for name, value in self._preset:
            fields = replaced(fields, name, value)
        if self._origins:
            fields = self._with_origin(fields, origin)
        if self._headers:
            told = self._headers_of_all.union(*(self._with_headers.all(b"/" + path) for path in paths))
            for number in sorted(told):
                for name, value in self._headers[number]:
                    fields = _with_field(fields, name, value, response.status)
        return response if fields is response.fields else response._replace(fields=fields)

    def _with_origin(self, fields: Fields, origin: bytes | None) -> Fields:
        if b"*" in self._origins:
            allowed: bytes | None = b"*"
        else:
            fields = varying(fields, b"Origin")
            allowed = origin if origin in self._origins else None
        if allowed is None:
            return fields
        return (*fields, (b"Access-Control-Allow-Origin", allowed), (b"Access-Control-Expose-Headers", EXPOSED))


def _index(rules: Iterable[Iterable[str]], *, contents: bool = False) -> GlobIndex:
    """The globs of rules, which are numbered in their order."""
    return GlobIndex(((number, glob) for number, globs in enumerate(rules) for glob in globs), contents=contents)


def _for_one_reader(control: bytes) -> bytes:
    """Cache-Control for what was given to somebody who said who it is: no shared cache must answer others with it."""
    directives = [directive.strip(b" \t") for directive in control.split(b",")]
    if not _SHARING & {directive.lower().partition(b"=")[0] for directive in directives}:
        return control
    return b", ".join((b"private", *(one for one in directives if one.lower() not in (b"public", b"private"))))


def _with_field(fields: Fields, name: bytes, value: bytes, status: int) -> Fields:
    """`fields` with one of a rule: what it says of Vary is added, all else is replaced."""
    lower = name.lower()
    if lower == b"vary" and value:
        return varying(fields, value)
    if lower == b"content-type":
        # A rule means the file. An error has a type of its own, and that of several ranges says how to tell them apart.
        known = dict(fields).get(b"Content-Type", b"")
        if status not in (200, 206) or known.startswith(b"multipart/"):
            return fields
    return replaced(fields, name, value)


class Sites:
    """The sites of a server by the name that is asked for."""

    def __init__(self, config: Config) -> None:
        self.default = Site(config)
        self.all = [self.default]
        self.is_one = not config.virtual_host
        self._exact: dict[bytes, Site] = {}
        self._below: dict[bytes, Site] = {}
        for number, host in enumerate(config.virtual_host, start=1):
            site = Site(host, number)
            self.all.append(site)
            for name in host.names:
                if name.startswith("*."):
                    self._below[name[1:].encode()] = site
                else:
                    self._exact[name.encode()] = site

    @property
    def selecting_fields(self) -> tuple[bytes, ...]:
        """The request's fields that bear on what is answered, beside those that always do."""
        configs = [site.config for site in self.all]
        names = []
        if len(configs) > 1:
            names.append(b"host")
        if any(config.auth for config in configs):
            names.append(b"authorization")
        if any(config.cors_origin for config in configs):
            names.append(b"origin")
        if any(config.listing or config.spa for config in configs):
            names.append(b"accept")
        if any(config.spa for config in configs):
            names.append(b"sec-fetch-mode")
        return tuple(names)

    def choose(self, authority: bytes | None) -> Site:
        """The site of a Host field's value: its own name, else the closest `*.` above it, else the default."""
        if authority is None or self.is_one:
            return self.default
        name = host_of(authority)
        if len(name) > HOST_BYTES_MAX:
            return self.default
        site = self._exact.get(name)
        while site is None and b"." in name:
            name = name.partition(b".")[2]
            site = self._below.get(b"." + name)
        return site or self.default


def host_of(authority: bytes) -> bytes:
    """The host of an authority (`semantics.is_authority`), in lower case and without the dot of the root."""
    host = authority if authority.endswith(b"]") else authority.rpartition(b":")[0] or authority
    return host.lower().removesuffix(b".")
