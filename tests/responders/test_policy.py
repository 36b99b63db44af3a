"""What a configuration says of paths. Sections without another name are of RFC 9110."""

from __future__ import annotations

import time
from urllib.parse import urljoin, urlsplit

import pytest
from exchanges import PASSWORD_HASH
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.config.rules import AuthRule, CacheRule, HeaderRule, RedirectRule, RewriteRule
from ringserve.config.settings import Config, HostConfig, SiteConfig
from ringserve.http.heads import Preflight, RequestLine
from ringserve.http.negotiation import CODINGS
from ringserve.http.response import Fields, Response
from ringserve.http.semantics import LIST_MEMBERS_MAX, Location, TargetError, is_authority, is_hidden, locate
from ringserve.responders.policy import (
    EXPOSED,
    HOST_BYTES_MAX,
    IMMUTABLE,
    PREFLIGHT_SECONDS,
    SECURITY_FIELDS,
    Redirection,
    Site,
    Sites,
    host_of,
)

EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True)


def auth(*globs: str, realm: str = "Restricted") -> AuthRule:
    return AuthRule(globs, realm, (("aladdin", PASSWORD_HASH),))


def line_of(target: bytes) -> RequestLine:
    return RequestLine(b"GET", target, b"1.1")


def moved(site: Site, target: bytes) -> tuple[int, bytes] | None:
    """Status and reference."""
    return site.redirect(locate(target), line_of(target))


SEGMENTS = st.lists(
    st.binary(min_size=1, max_size=6) | st.sampled_from([b"a", b"evil.example", b"\\", b"..x", b"\t", b".", b"$1"]),
    max_size=4,
)
"""What paths are made of: any bytes but NUL and the slash, and no dot segments."""
LOCATIONS = st.builds(
    lambda segments, slash: Location(b"/".join(segments) + b"/" * bool(segments and slash), False),
    SEGMENTS.map(
        lambda parts: [part for part in parts if part not in (b".", b"..") and b"/" not in part and b"\0" not in part]
    ),
    st.booleans(),
)
QUERIES = st.sampled_from([b"", b"?", b"?q=//evil.example", b"?a?b"])


# -- redirects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "asked", "reference"),
    [
        ("/old", "/new", b"/old", b"/new"),
        ("/old", "/new", b"/old/", None),
        ("/old", "/new", b"/older", None),
        ("/old", "/new", b"/%6fld", b"/new"),
        ("/old", "/new", b"/x/../old", b"/new"),
        ("/", "/home", b"/", b"/home"),
        # What the stars stood for
        ("/old/*", "/new/$1", b"/old/page", b"/new/page"),
        ("/old/*", "/new/$1", b"/old/a/b", None),
        ("/old/**", "/new/$1", b"/old/a/b/", b"/new/a/b/"),
        ("/old/**", "/new/$1", b"/old/", b"/new/"),
        ("/*/*", "/$2/$1", b"/a/b", b"/b/a"),
        ("/*/*", "/$2/$2", b"/a/b", b"/b/b"),
        ("*.htm", "/pages/$1.html", b"/deep/down.htm", b"/pages/down.html"),
        ("/old/*", "/new/$1", b"/old/a%20b%3fc%23d%25%e9", b"/new/a%20b%3Fc%23d%25%E9"),
        ("/old/*", "/new/$1", b"/old/%24%31", b"/new/$1"),
        # The query goes along, unless the new address has its own
        ("/old", "/new", b"/old?a=1&b", b"/new?a=1&b"),
        ("/old", "/new", b"/old?", b"/new?"),
        ("/old", "/new?v=2", b"/old?a=1", b"/new?v=2"),
        ("/old/*", "/find?q=$1", b"/old/a?b", b"/find?q=a"),
        # and it stands before a fragment (RFC 3986 3)
        ("/old", "/new#part", b"/old?a=1", b"/new?a=1#part"),
        ("/old", "/new?v=2#part", b"/old?a=1", b"/new?v=2#part"),
        ("/old", "/new#is-it?", b"/old?a=1", b"/new?a=1#is-it?"),
        # Another host is what the configuration says, and nothing else
        ("/old/**", "https://other.example/$1", b"/old/a/b?q", b"https://other.example/a/b?q"),
        ("/old/**", "https://other.example", b"/old/a?q", b"https://other.example?q"),
        ("/old", "/new", b"http://evil.example/old", b"/new"),
        ("/to/**", "/$1", b"/to//evil.example", b"/evil.example"),
        ("/to**", "/$1", b"/to/evil.example", b"/evil.example"),
        ("/to**", "/$1", b"/to", b"/"),
        ("/to/**", "/$1", b"/to/%5cevil.example", b"/%5Cevil.example"),
        ("/to/**", "/$1", b"/to/%09/evil.example", b"/%09/evil.example"),
    ],
)
def test_a_path_that_moved_is_sent_to_its_new_address(
    source: str, target: str, asked: bytes, reference: bytes | None
) -> None:
    site = Site(SiteConfig(redirects=(RedirectRule(source, target),)))
    assert moved(site, asked) == (None if reference is None else Redirection(308, reference))


def test_the_first_redirect_that_matches_is_taken_with_its_status() -> None:
    site = Site(
        SiteConfig(
            redirects=(
                RedirectRule("/a/b", "/1", 301),
                RedirectRule("/a/*", "/2", 302),
                RedirectRule("/**", "/3", 307),
            )
        )
    )
    assert [moved(site, target) for target in (b"/a/b", b"/a/c", b"/c")] == [(301, b"/1"), (302, b"/2"), (307, b"/3")]


def test_without_rules_nothing_moved() -> None:
    assert moved(Site(SiteConfig()), b"/a") is None


REDIRECTS = [
    ("/**", "/$1"),
    ("**", "/$1"),
    ("/**", "/$1/$1?q=$1"),
    ("/*/**", "/$2"),
    ("/*/**", "/$1$2"),
    ("/**/*", "/$2/$1"),
    ("/?**", "/$1"),
    ("/**", "/x#$1"),
    ("/**", "https://other.example/$1"),
    ("/**", "https://other.example:8443/a?to=$1"),
    ("/**", "http://other.example#$1"),
]


@EXAMPLES
@given(rule=st.sampled_from(REDIRECTS), location=LOCATIONS, query=QUERIES)
def test_no_path_is_redirected_to_a_host_of_its_choice(rule: tuple[str, str], location: Location, query: bytes) -> None:
    redirection = Site(SiteConfig(redirects=(RedirectRule(*rule),))).redirect(location, line_of(b"/" + query))
    if redirection is None:
        return
    reference = redirection.reference
    assert all(0x21 <= byte <= 0x7E for byte in reference), "what a field can carry, and no browser leaves out"
    configured = rule[1].partition("$")[0].partition("#")[0]
    if rule[1].startswith("/"):
        assert reference[:1] == b"/"
        assert reference[1:2] not in (b"/", b"\\")
        expected = "here.example"
    else:
        assert reference.startswith(configured.encode()), "what follows has a path, a query or a fragment before it"
        assert reference[len(configured) :][:1] in (b"", b"/", b"?", b"#") or configured.count("/") > 2
        expected = urlsplit(configured).netloc
    assert urlsplit(urljoin("http://here.example/a/b", reference.decode())).netloc == expected


# -- rewrites ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "asked", "path", "hidden"),
    [
        ("/alias", "/file.txt", b"/alias", b"file.txt", False),
        ("/alias/**", "/$1", b"/alias/a/b", b"a/b", False),
        ("/alias/**", "/real/$1", b"/alias/", b"real/", False),
        ("/alias/*", "/real/$1", b"/alias/a%20%3f%25%5c%e9", b"real/a ?%\\\xe9", False),
        ("/alias", "/a//b/../c", b"/alias", b"a/c", False),
        # Located anew: what is not served is not served by another name either
        ("/alias/**", "/$1", b"/alias/.env", b".env", True),
        ("/alias/*", "/.$1", b"/alias/env", b".env", True),
        ("/dot*/*", "/$2.$1", b"/dot/", b"", False),
        ("/alias/*", "/ringserve.$1", b"/alias/toml", b"ringserve.toml", True),
        ("/alias/*", "/.well-known/$1", b"/alias/x", b".well-known/x", False),
    ],
)
def test_a_path_is_answered_by_another_file(source: str, target: str, asked: bytes, path: bytes, hidden: bool) -> None:
    site = Site(SiteConfig(rewrites=(RewriteRule(source, target),)))
    assert site.rewrite(locate(asked)) == Location(path, hidden)


@pytest.mark.parametrize("asked", [b"/a../x", b"/a.%2e/x"])
def test_what_stars_stand_for_cannot_add_up_to_a_way_out_of_the_root(asked: bytes) -> None:
    site = Site(SiteConfig(rewrites=(RewriteRule("/a*/*", "/$1/$2"),)))
    with pytest.raises(TargetError, match="leaves the root"):
        site.rewrite(locate(asked))


def test_the_first_rewrite_that_matches_is_taken_once() -> None:
    site = Site(
        SiteConfig(rewrites=(RewriteRule("/a", "/b"), RewriteRule("/b", "/c"), RewriteRule("/**", "/all.html")))
    )
    rewritten = [site.rewrite(locate(target)) for target in (b"/a", b"/b", b"/c")]
    assert [location and location.path for location in rewritten] == [b"b", b"c", b"all.html"]


def test_a_path_that_no_rule_is_about_answers_for_itself() -> None:
    assert Site(SiteConfig(rewrites=(RewriteRule("/a", "/b"),))).rewrite(locate(b"/c")) is None


@EXAMPLES
@given(location=LOCATIONS)
def test_a_rewrite_keeps_every_byte_of_what_a_star_stood_for(location: Location) -> None:
    rewritten = Site(SiteConfig(rewrites=(RewriteRule("/**", "/below/$1"),))).rewrite(location)
    assert rewritten is not None
    assert rewritten.path == b"below/" + location.path
    assert rewritten.hidden is is_hidden(rewritten.path)


# -- protection -------------------------------------------------------------------------------------------------


def realm_of(site: Site, path: bytes) -> bytes | None:
    guard = site.guard(path)
    return None if guard is None else guard.challenge


def test_the_first_rule_about_a_path_protects_it() -> None:
    site = Site(SiteConfig(auth=(auth("/a/b/**", realm="B"), auth("/a/**", "*.key", realm="A"))))
    b, a = b'Basic realm="B", charset="UTF-8"', b'Basic realm="A", charset="UTF-8"'  # RFC 7617 2, 2.1
    expected = {
        b"a/b/c": b, b"a/b/": b, b"a/": a, b"a/c": a, b"x/server.key": a, b"a/b/server.key": b, b"a": None, b"": None,
        b"b/a/c": None,
    }  # fmt: skip
    assert {path: realm_of(site, path) for path in expected} == expected


def test_without_rules_nothing_is_protected() -> None:
    assert Site(SiteConfig()).guard(b"a") is None


def test_a_guard_knows_the_hashes_of_its_users() -> None:
    guard = Site(SiteConfig(auth=(auth("**"),))).guard(b"")
    assert guard is not None
    assert guard.users == {b"aladdin": PASSWORD_HASH}


@pytest.mark.parametrize("ending", CODINGS.values())
def test_a_precompressed_file_is_protected_as_that_which_it_was_made_of(ending: bytes) -> None:
    of_source, of_itself = auth("/plan.txt", "*.html", realm="A"), auth(f"*{ending.decode()}", realm="B")
    for rules, realm in (((of_source, of_itself), b"A"), ((of_itself, of_source), b"B")):
        challenge = realm_of(Site(SiteConfig(auth=rules)), b"docs/page.html" + ending)
        assert challenge == b'Basic realm="%s", charset="UTF-8"' % realm, "the first rule about either name"
    site = Site(SiteConfig(auth=(of_source,)))
    assert site.guard(b"plan.txt" + ending) is site.guard(b"docs/page.html" + ending) is site.guard(b"plan.txt")
    assert site.guard(b"plan.txt" + ending) is not None
    assert site.guard(b"plan" + ending) is None
    assert site.guard(b"plan.txt.zip") is None


# -- Cache-Control ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        b"app.3f9a1c2b.js",
        b"index-3f9a1c2b.css",
        b"app.3f9a1c2b.js.map",
        b"main.3f9a1c2b.chunk.js",
        b"font.9e107d9d372bb6826bd81d3542a419d6.woff2",
        b"a-" + b"0a" * 32 + b".png",
        b"deep/down/app.3f9a1c2b.js",
        b"jquery-3.7.1.3f9a1c2b.js",
        b"img.0000000a.svg",
        b"img.a0000000.svg",
    ],
)
def test_a_name_with_a_hash_of_its_content_never_changes(name: bytes) -> None:
    assert Site(SiteConfig()).cache_control(name, False) == (b"Cache-Control", IMMUTABLE)
    control = Site(SiteConfig()).cache_control(name, True)
    assert control == (b"Cache-Control", b"private, max-age=31536000, immutable")


@pytest.mark.parametrize(
    "name",
    [
        b"report-20261122.pdf",
        b"photo-12345678.jpg",
        b"app.js",
        b"v1.2.3.js",
        b"jquery-3.7.1.min.js",
        b"deadbeef.txt",
        b"a.deadbeef.txt",
        b"3f9a1c2b.js",
        b"app.3f9a1c2.js",
        b"app.3F9A1C2B.js",
        b"app.3f9a1c2bx.js",
        b"app.3f9a1c2b",
        b"app.3f9a1c2b.a.b.js",
        b"app.3f9a1c2b.7z",
        b"app.3f9a1c2b.js/index.html",
        b"a-" + b"0a" * 33 + b".png",
        b"app.3f9a1c2b.js\n",
        b"app.3f9a1c2b.js ",
        b"",
    ],
)
def test_a_name_without_one_is_asked_about_each_time(name: bytes) -> None:
    for guarded in (False, True):
        assert Site(SiteConfig()).cache_control(name, guarded) == (b"Cache-Control", b"no-cache")


def test_the_first_rule_about_a_file_says_how_it_is_cached() -> None:
    site = Site(
        SiteConfig(cache=(CacheRule(("/a/*.js", "/b/**"), "max-age=1"), CacheRule(("*.js", "/b/**"), "max-age=2")))
    )
    expected = {
        b"a/x.js": b"max-age=1", b"b/x.js": b"max-age=1", b"x.js": b"max-age=2", b"a/3.3f9a1c2b.js": b"max-age=1",
        b"a/x.css": b"no-cache",
    }  # fmt: skip
    assert {path: site.cache_control(path, False)[1] for path in expected} == expected


@pytest.mark.parametrize(
    ("control", "guarded"),
    [
        ("public, max-age=60", b"private, max-age=60"),
        ("max-age=60,PUBLIC", b"private, max-age=60"),
        ("s-maxage=60", b"private, s-maxage=60"),
        ("max-age=60, Must-Revalidate", b"private, max-age=60, Must-Revalidate"),
        ("private, public", b"private"),
        # These let no shared cache answer a request that has credentials.
        ("max-age=60", b"max-age=60"),
        ("no-cache", b"no-cache"),
        ("private, max-age=60", b"private, max-age=60"),
        ("no-store", b"no-store"),
    ],
)
def test_no_rule_lets_a_shared_cache_keep_what_is_protected(control: str, guarded: bytes) -> None:
    site = Site(SiteConfig(cache=(CacheRule(("**",), control),)))  # RFC 9111 3.5
    assert site.cache_control(b"a", True) == (b"Cache-Control", guarded)
    assert site.cache_control(b"a", False) == (b"Cache-Control", control.encode())


# -- fields -----------------------------------------------------------------------------------------------------

OK = Response(200, ((b"Content-Type", b"text/css"), (b"Cache-Control", b"no-cache")), (b"body",), 4)


def dressed(
    rules: list[tuple[str, dict[str, str]]],
    *paths: bytes,
    response: Response = OK,
    origin: bytes | None = None,
    security_headers: bool = False,
    cors_origin: tuple[str, ...] = (),
) -> Fields:
    headers = tuple(HeaderRule((glob,), tuple(fields.items())) for glob, fields in rules)
    site = Site(SiteConfig(headers=headers, security_headers=security_headers, cors_origin=cors_origin))
    after = site.dress(response, paths, origin)
    assert after._replace(fields=()) == response._replace(fields=()), "nothing but the fields"
    names = [name.lower() for name, _value in after.fields]
    assert len(names) == len(set(names)), "no field stands twice"
    return after.fields


def test_without_rules_a_response_is_what_it_was() -> None:
    assert Site(SiteConfig()).dress(OK, (b"a",), b"https://app.example") is OK


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"X-A": "1"}, (*OK.fields, (b"X-A", b"1"))),
        ({"X-A": "1", "X-B": "2"}, (*OK.fields, (b"X-A", b"1"), (b"X-B", b"2"))),
        ({"Cache-Control": "no-store"}, (OK.fields[0], (b"Cache-Control", b"no-store"))),
        ({"cache-control": "no-store"}, (OK.fields[0], (b"cache-control", b"no-store"))),
        ({"cache-CONTROL": ""}, (OK.fields[0],)),
        ({"X-A": ""}, OK.fields),
        ({"Content-Type": "text/x-css"}, ((b"Content-Type", b"text/x-css"), OK.fields[1])),
    ],
)
def test_a_rule_sets_fields_in_their_places_and_takes_them_away(fields: dict[str, str], after: Fields) -> None:
    assert dressed([("/a", fields)], b"a") == after


def test_of_two_rules_about_a_field_the_later_one_stands() -> None:
    rules = [("/a", {"X-A": "1"}), ("*", {"x-a": "2"}), ("/b", {"X-A": "3"})]
    assert dressed(rules, b"a")[2:] == ((b"x-a", b"2"),)
    assert dressed([*rules, ("/a", {"X-A": ""})], b"a")[2:] == ()


def test_fields_are_given_by_any_of_the_paths() -> None:
    rules = [("/docs/", {"X-Asked": "1"}), ("*.html", {"X-Found": "1"}), ("/c", {"X-Other": "1"})]
    assert dict(dressed(rules, b"docs/", b"docs/index.html")[2:]) == {b"X-Asked": b"1", b"X-Found": b"1"}
    assert dict(dressed(rules, b"docs/")[2:]) == {b"X-Asked": b"1"}


@pytest.mark.parametrize("glob", ["**", "/**", "{a,b}", "*", "/*", "/"])
def test_a_request_that_could_not_be_read_gets_what_is_said_of_everything(glob: str) -> None:
    fields = dressed([(glob, {"X-A": "1"})], response=Response(400, ()))
    assert fields == (((b"X-A", b"1"),) if glob in ("**", "/**") else ())


@pytest.mark.parametrize(
    ("known", "rules", "value"),
    [
        (None, ["X-Theme"], b"X-Theme"),
        (b"Accept", ["X-Theme"], b"Accept, X-Theme"),
        (b"Accept", ["Accept"], b"Accept"),
        (b"Accept", ["accept, X-Theme"], b"Accept, X-Theme"),
        (b"Accept, Origin", [" ORIGIN ,, X-Theme,x-theme"], b"Accept, Origin, X-Theme"),
        (b"Accept", ["X-A", "X-B, ACCEPT", "x-a"], b"Accept, X-A, X-B"),
        (b"Accept", [""], None),
        (None, [""], None),
        (None, [" , "], None),
    ],
)
def test_names_are_added_to_vary_and_none_stands_twice(
    known: bytes | None, rules: list[str], value: bytes | None
) -> None:
    response = Response(200, () if known is None else ((b"Vary", known),))  # 12.5.5
    assert dict(dressed([("**", {"vary": rule}) for rule in rules], b"a", response=response)) == (
        {} if value is None else {b"Vary": value}
    )


@pytest.mark.parametrize(
    ("status", "content_type"),
    [
        (404, b"text/html; charset=utf-8"),
        (416, b"application/json"),
        (206, b"multipart/byteranges; boundary=abc"),
        (304, None),
        (204, None),
        (308, None),
    ],
)
@pytest.mark.parametrize("value", ["text/x-css", ""])
def test_a_content_type_is_that_of_the_file_and_not_of_what_is_said_instead(
    status: int, content_type: bytes | None, value: str
) -> None:
    # An error page that says it is a style sheet, or parts without their boundary (14.6), could not be read.
    response = Response(status, () if content_type is None else ((b"Content-Type", content_type),))
    assert dressed([("**", {"Content-type": value})], b"a", response=response) == response.fields


def test_one_range_has_the_content_type_of_its_file() -> None:
    response = OK._replace(status=206)
    assert dressed([("**", {"Content-Type": "text/x-css"})], b"a", response=response)[0][1] == b"text/x-css"


def test_the_security_preset_is_on_every_response_and_a_rule_goes_before_it() -> None:
    for paths in ((b"a",), ()):
        assert dressed([], *paths, security_headers=True) == (*OK.fields, *SECURITY_FIELDS)
    rules = [("**", {"x-frame-options": "DENY", "Referrer-Policy": ""})]
    fields = dict(dressed(rules, b"a", security_headers=True))
    assert fields[b"x-frame-options"] == b"DENY"
    assert b"Referrer-Policy" not in fields
    assert fields[b"Cross-Origin-Opener-Policy"] == b"same-origin"


# -- scripts of other origins (https://fetch.spec.whatwg.org/, 3.3) ---------------------------------------------

APP = b"https://app.example"
ALLOWED = ((b"Access-Control-Allow-Origin", APP), (b"Access-Control-Expose-Headers", EXPOSED))


@pytest.mark.parametrize(
    ("configured", "origin", "added"),
    [
        ((), APP, ()),
        (("https://app.example",), APP, ((b"Vary", b"Origin"), *ALLOWED)),
        (("https://app.example",), b"https://evil.example", ((b"Vary", b"Origin"),)),
        (("https://app.example",), b"https://app.example:8443", ((b"Vary", b"Origin"),)),
        (("https://app.example",), b"https://app.example.evil.example", ((b"Vary", b"Origin"),)),
        (("https://app.example",), b"http://app.example", ((b"Vary", b"Origin"),)),
        (("https://app.example",), b"null", ((b"Vary", b"Origin"),)),
        (("https://app.example",), None, ((b"Vary", b"Origin"),)),
        (("https://b.example", "https://app.example"), APP, ((b"Vary", b"Origin"), *ALLOWED)),
        (("*",), APP, ((b"Access-Control-Allow-Origin", b"*"), ALLOWED[1])),
        (("*",), None, ((b"Access-Control-Allow-Origin", b"*"), ALLOWED[1])),
        (("*", "https://app.example"), APP, ((b"Access-Control-Allow-Origin", b"*"), ALLOWED[1])),
    ],
)
def test_an_origin_that_may_read_is_told_so(configured: tuple[str, ...], origin: bytes | None, added: Fields) -> None:
    assert dressed([], b"a", origin=origin, cors_origin=configured) == (*OK.fields, *added)


def test_a_rule_goes_before_the_preset_for_scripts() -> None:
    rules = [("**", {"Access-Control-Expose-Headers": "X-A", "Vary": "origin, X-Theme"})]
    fields = dict(dressed(rules, b"a", origin=APP, cors_origin=("https://app.example",)))
    assert fields[b"Access-Control-Expose-Headers"] == b"X-A"
    assert fields[b"Vary"] == b"Origin, X-Theme"


@pytest.mark.parametrize(
    ("configured", "origin"),
    [
        ((), APP),
        (("https://app.example",), None),
        (("https://app.example",), b"https://evil.example"),
        (("https://app.example",), b"null"),
        (("*",), None),
    ],
)
def test_a_preflight_of_a_stranger_learns_nothing(configured: tuple[str, ...], origin: bytes | None) -> None:
    assert Site(SiteConfig(cors_origin=configured)).preflight(origin, Preflight(b"GET", None)) == ()


@pytest.mark.parametrize("configured", [("https://app.example",), ("*",)])
@pytest.mark.parametrize("method", [b"GET", b"DELETE"])
@pytest.mark.parametrize(
    ("field_names", "allowed"),
    [
        (None, None),
        (b"range", b"range"),
        (b"authorization,x-a\t, if-none-match", b"authorization,x-a\t, if-none-match"),
        (b"", None),
        (b"a,", None),
        (b"a b", None),
        (b"a: b", None),
        (b"a\xe9", None),
    ],
)
def test_a_preflight_learns_the_methods_and_gets_its_field_names_back(
    configured: tuple[str, ...], method: bytes, field_names: bytes | None, allowed: bytes | None
) -> None:
    fields = dict(Site(SiteConfig(cors_origin=configured)).preflight(APP, Preflight(method, field_names)))
    assert fields.pop(b"Access-Control-Allow-Headers", None) == allowed
    assert fields == {
        b"Access-Control-Allow-Methods": b"GET, HEAD, OPTIONS",
        b"Access-Control-Max-Age": PREFLIGHT_SECONDS,
        b"Vary": b"Access-Control-Request-Method, Access-Control-Request-Headers",
    }


# -- virtual hosts ----------------------------------------------------------------------------------------------


def sites_of(*names: str, **rest: object) -> Sites:
    """A default site and one for each of the names."""
    return Sites(Config(virtual_host=tuple(HostConfig(directory="/x", names=(name,)) for name in names), **rest))  # type: ignore[arg-type]


NAMES = ("example.org", "*.example.org", "*.b.example.org", "x.b.example.org", "[::1]", "127.0.0.1", "localhost")
SITES = sites_of(*NAMES)


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        (b"example.org", "example.org"),
        (b"EXAMPLE.Org", "example.org"),
        (b"example.org:8080", "example.org"),
        (b"example.org:", "example.org"),
        (b"example.org.", "example.org"),
        (b"Example.Org.:80", "example.org"),
        (b"a.example.org", "*.example.org"),
        (b"a.b.c.example.org", "*.example.org"),
        (b"A.Example.Org.:80", "*.example.org"),
        (b"b.example.org", "*.example.org"),
        (b"a.b.example.org", "*.b.example.org"),
        (b"a.a.b.example.org", "*.b.example.org"),
        (b"x.b.example.org", "x.b.example.org"),
        (b"a.x.b.example.org", "*.b.example.org"),
        (b"[::1]", "[::1]"),
        (b"[::1]:8080", "[::1]"),
        (b"[::1]:", "[::1]"),
        (b"127.0.0.1:80", "127.0.0.1"),
        (b"localhost", "localhost"),
        # Nobody's
        (None, None),
        (b"", None),
        (b".", None),
        (b":80", None),
        (b"org", None),
        (b"example.org..", None),
        (b"notexample.org", None),
        (b"example.org.evil.example", None),
        (b"[::2]:80", None),
        (b"1.127.0.0.1", None),
        (b"\0001/", None),
    ],
)
def test_a_host_has_its_own_site_else_the_closest_star_above_it_else_the_first(
    authority: bytes | None, name: str | None
) -> None:
    chosen = SITES.choose(authority)
    assert chosen is (SITES.default if name is None else SITES.all[1 + NAMES.index(name)])


def test_one_site_answers_for_every_host() -> None:
    sites = Sites(Config())
    assert all(sites.choose(authority) is sites.default for authority in (None, b"", b"example.org", b"[", b":"))


def test_each_site_has_a_part_of_the_file_table_that_no_path_can_name() -> None:
    assert [site.root for site in SITES.all[:3]] == [0, 1, 2]
    with pytest.raises(TargetError):
        locate(b"/%001/secret")


LABELS = st.sampled_from([b"example", b"org", b"a", b"B", b"x", b"b", b"localhost", b"", b"[::1]", b"127"])
AUTHORITIES = st.builds(
    lambda labels, ending: b".".join(labels) + ending,
    st.lists(LABELS, max_size=6),
    st.sampled_from([b"", b".", b":80", b":", b".:80", b"%2e"]),
).filter(is_authority)


@EXAMPLES
@given(authority=AUTHORITIES)
def test_no_host_is_beyond_an_answer_and_no_rule_is_overlooked(authority: bytes) -> None:
    chosen = SITES.choose(authority)
    name = host_of(authority).decode("latin-1")
    exact = [known for known in NAMES if known == name]
    below = [known for known in NAMES if known[0] == "*" and name.endswith(known[1:]) and name != known[1:]]
    best = exact or sorted(below, key=len, reverse=True)
    # A name that begins with a dot is none; whether a star stands for the nothing before it is not asked.
    if not name.startswith("."):
        assert chosen is (SITES.all[1 + NAMES.index(best[0])] if best else SITES.default)
    assert host_of(authority) == host_of(authority.upper())
    assert not host_of(authority).endswith(b".") or authority.endswith((b"..", b"..:", b"..:80"))


def test_a_host_longer_than_any_name_is_not_looked_for() -> None:
    longest = b"a" * (HOST_BYTES_MAX - len(b".example.org"))
    assert SITES.choose(longest + b".example.org:8080") is SITES.all[2]
    assert SITES.choose(longest + b"a.example.org") is SITES.default
    began = time.process_time()
    for _ in range(100):
        assert SITES.choose(b"a." * 16_000 + b"example.org") is SITES.default
    assert time.process_time() - began < 1, "80 ms for each, if every dot were tried"


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (Config(), ()),
        (Config(auth=(auth("/a"),)), (b"authorization",)),
        (Config(cors_origin=("*",)), (b"origin",)),
        (Config(listing=True), (b"accept",)),
        (Config(spa=True), (b"accept", b"sec-fetch-mode")),
        (Config(virtual_host=(HostConfig(names=("a",)),)), (b"host",)),
        (Config(virtual_host=(HostConfig(names=("a",), auth=(auth("/a"),)),)), (b"host", b"authorization")),
        (
            Config(auth=(auth("/a"),), virtual_host=(HostConfig(names=("a",), cors_origin=("*",)),)),
            (b"host", b"authorization", b"origin"),
        ),
    ],
)
def test_only_fields_that_make_a_difference_select(config: Config, names: tuple[bytes, ...]) -> None:
    assert Sites(config).selecting_fields == names


def test_a_preflight_of_more_names_than_are_read_allows_none() -> None:
    site = Site(SiteConfig(cors_origin=("*",)))
    for count, allowed in ((LIST_MEMBERS_MAX, True), (LIST_MEMBERS_MAX + 1, False)):
        fields = dict(site.preflight(b"https://a.example", Preflight(b"GET", b",".join([b"x"] * count))))
        assert (b"Access-Control-Allow-Headers" in fields) is allowed
        assert b"Access-Control-Allow-Methods" in fields


@pytest.mark.parametrize("glob", ["/private", "/private/", "/private/**", "/private/*", "/priv*", "/", "**"])
def test_a_protected_path_is_protected_with_all_that_is_below_it(glob: str) -> None:
    site = Site(SiteConfig(auth=(AuthRule((glob,), users=(("a", PASSWORD_HASH),)),)))
    for path in (b"private/plan.txt", b"private/a/b.txt", b"private/index.html", b"private/plan.txt.gz"):
        assert site.guard(path) is not None, path
    assert (site.guard(b"public/plan.txt") is None) is (glob not in ("/", "**"))


@pytest.mark.parametrize("clean_urls", [True, False])
def test_a_protected_page_is_protected_by_both_of_its_names(clean_urls: bool) -> None:
    site = Site(SiteConfig(clean_urls=clean_urls, auth=(AuthRule(("/about",), users=(("a", PASSWORD_HASH),)),)))
    assert site.guard(b"about") is not None
    assert (site.guard(b"about.html") is not None) is clean_urls


def test_what_a_star_stood_for_adds_no_parameter_to_a_query() -> None:
    site = Site(SiteConfig(redirects=(RedirectRule("/find/*", "/search?q=$1&page=1"),)))
    moved = site.redirect(Location(b"find/a&page=2+b", hidden=False), line_of(b"/"))
    assert moved is not None
    assert moved.reference == b"/search?q=a%26page%3D2%2Bb&page=1"
