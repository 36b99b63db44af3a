"""What is prepared, for how long it is fresh, and whose passwords are remembered: with a file table, helper threads and
a clock that the tests move.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Coroutine
from copy import copy
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar, cast

import pytest
from exchanges import PASSWORD_HASH
from hypothesis import given, settings
from hypothesis import strategies as st

import ringserve.connection.verifier
from ringserve import static
from ringserve.config.rules import AuthRule, HeaderRule, RedirectRule, RewriteRule
from ringserve.config.settings import Config, HostConfig
from ringserve.connection.answers import ALIKE_MAX, Answers, Sources, sources
from ringserve.connection.prepared import PREPARED_PER_PATH_MAX, Prepared, PreparedResponses
from ringserve.connection.remembered import PREPARED_PER_LINE_MAX, KnownHead, Memory, key_of
from ringserve.connection.verifier import PASSWORDS, Asker, Verifier
from ringserve.files.directory import Item
from ringserve.files.entries import Directory, Entry, Failure, File, Freshness, Key
from ringserve.files.names import FRESH_S
from ringserve.files.table import FileTable
from ringserve.http.heads import CONFIGURED_FIELDS, Request, Told
from ringserve.http.request import Limits, Parser
from ringserve.http.response import Response, SharedDescriptor
from ringserve.responders import passwords
from ringserve.responders.policy import Site, Sites
from ringserve.responders.steps import Claim, Lookup, Respond, Steps, Verified
from ringserve.ring.tasks import HelpersBusyError, Task, Tasks
from ringserve.ring.world import FileStatus

MODIFIED_NS = 784_111_777 * 10**9
WALL_S = 1_700_000_000.0
LIMITS = Limits(32 * 1024, 8 * 1024, 100)
RIGHT = b"Authorization: Basic " + base64.b64encode(b"aladdin:open sesame")
Result = TypeVar("Result")
respond = static.responder(b"")


def done(steps: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine returns; nothing here has to be waited for."""
    try:
        steps.send(None)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    raise AssertionError("nothing here waits")


class Clock:
    """What is asked of a ring, of a system, and of a task: the time, what nobody can guess, and the client."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.client = "192.0.2.1"

    @property
    def ring(self) -> Clock:
        return self

    tasks = system = ring

    def wall_time_s(self) -> float:
        return WALL_S + self.now

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def client_of(self, told: Told) -> str:
        assert told.host is not None
        return self.client


class Disk:
    """A file table that finds what the tests put there, with the freshness of the real one.

    found: the paths asked for. meanwhile: called by the next look, for what happens while others are looked at.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.there: dict[Key, Entry] = {}
        self.known: dict[Key, Entry] = {}
        self.found: list[bytes] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.slow: set[bytes] = set()
        """Paths of which nothing can be told without waiting."""

    def put(self, *entries: Entry, root: int = 0) -> None:
        """As the kernel tells it: at once."""
        for entry in entries:
            self.put_unseen(entry, root)
            self.drop(Key(root, entry.path))

    def put_unseen(self, entry: Entry, root: int = 0) -> None:
        """As where no events are sent: it is found at the next look."""
        self.there[Key(root, entry.path)] = entry

    def drop(self, key: Key) -> None:
        """As `FileTable` does."""
        entry = self.known.pop(key, None)
        if entry is not None:
            entry.freshness.until = 0.0
            if self.there.get(key) is entry:
                self.there[key] = entry = copy(entry)  # what is dropped is never fresh again
                entry.freshness = Freshness(0.0)

    def find_now(self, key: Key) -> Entry | None:
        return None if key.path in self.slow else done(self.find(cast(Task, self.clock), key))

    async def find(self, task: Task, key: Key) -> Entry:
        assert cast(Any, task) is self.clock, "the task of the connection"
        self.found.append(key.path)
        known = self.known.get(key)
        if known is None or known.freshness.until <= self.clock.now:
            there = self.there.get(key)
            if known is None or known is not there:
                self.drop(key)
                known = there or Failure(key.path, 404)
            if not (isinstance(known, Failure) and known.status >= 500):
                self.known[key] = known
                known.freshness.until = self.clock.now + FRESH_S
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return known


class Threads:
    """Helpers that do their job at once, unless they are busy."""

    def __init__(self, clock: Clock) -> None:
        self.clock = self.system = clock
        self.runs = 0
        self.origins: list[str] = []
        self.busy = False

    def call(
        self, function: Callable[[], Result], lane: str, origin: str, cleanup: Callable[[], None]
    ) -> Threads.Done[Result]:
        assert lane == PASSWORDS
        self.origins.append(origin)
        self.runs += not self.busy
        return self.Done(self, function, cleanup)

    class Done(Generic[Result]):
        """A job that runs when its result is awaited."""

        def __init__(self, threads: Threads, function: Callable[[], Result], cleanup: Callable[[], None]) -> None:
            self.threads = threads
            self.function = function
            self.cleanup = cleanup

        async def result(self, task: Task) -> Result:
            assert cast(Any, task) is self.threads.clock, "the task of the connection"
            self.cleanup()
            if self.threads.busy:
                raise HelpersBusyError
            return self.function()


class World:
    """The answers to a responder's questions, and everything that is asked for them."""

    def __init__(
        self, *, enabled: bool = True, respond: Respond = respond, more: Sources = MappingProxyType({}), **settings: Any
    ) -> None:
        """more: sources of answers to questions of the test's own."""
        self.clock = Clock()
        self.disk = Disk(self.clock)
        self.threads = Threads(self.clock)
        self.sites = Sites(Config(**settings))
        prepared = PreparedResponses(b"ringserve", 1000, 1024 * 1024)
        self.memory = Memory(Parser(LIMITS, self.sites.selecting_fields), prepared, enabled=enabled)
        files = cast(FileTable, self.disk)
        known = sources(cast(Tasks, self.threads), files)
        self.answers = Answers(respond, {**known, **more}, files, self.sites, self.memory)
        self.verifier: Verifier = cast(Any, known[Claim]).__self__

    def request(self, target: bytes, *fields: bytes, method: bytes = b"GET") -> KnownHead:
        return self.memory.read(head_of(target, b"a", *fields, method=method))

    def respond(self, request: KnownHead) -> Response | Prepared:
        return done(self.answers.find(cast(Asker, self.clock), request))

    def ask(self, target: bytes, *fields: bytes, method: bytes = b"GET") -> Response | Prepared:
        return self.respond(self.request(target, *fields, method=method))

    def prepared(self, target: bytes, *fields: bytes, method: bytes = b"GET") -> Prepared:
        answer = self.ask(target, *fields, method=method)
        assert isinstance(answer, Prepared)
        assert self.is_fresh(answer)
        return answer

    def is_fresh(self, answer: Prepared) -> bool:
        """Whether it may be sent again without a look."""
        return answer.freshness.until > self.clock.now


def head_of(
    target: bytes, host: bytes | None, *fields: bytes, method: bytes = b"GET", version: bytes = b"1.1"
) -> bytes:
    hosts = [] if host is None else [b"Host: " + host]
    return b"\r\n".join([b"%s %s HTTP/%s" % (method, target, version), *hosts, *fields]) + b"\r\n\r\n"


def content(answer: Response | Prepared) -> Response:
    """A response, or what a prepared one says."""
    if not isinstance(answer, Prepared):
        return answer
    lines = [line.partition(b": ") for line in answer.after.removesuffix(b"\r\n\r\n").split(b"\r\n")]
    fields = tuple((name, value) for name, _colon, value in lines if name != b"Content-Length")
    lengths = [int(value) for name, _colon, value in lines if name == b"Content-Length"]
    return Response(answer.status, fields, (answer.body,) if answer.body else (), lengths[0] if lengths else None)


def status_of(size: int, number: int = 0) -> FileStatus:
    return FileStatus(0o100644, 1, 2, size, MODIFIED_NS + number, MODIFIED_NS)


def file_of(path: bytes, body: bytes | None = None, number: int = 0) -> File:
    body = b"<%s>" % path if body is None else body
    return File(path, status_of(len(body), number), body, None, int(WALL_S) * 10**9)


def large_file(path: bytes) -> File:
    descriptor = SharedDescriptor(7, lambda _fd: None)
    return File(path, status_of(10**6), None, descriptor, int(WALL_S) * 10**9)


@pytest.fixture
def world() -> World:
    return World()


# -- what is prepared -------------------------------------------------------------------------------------------


def test_a_file_in_memory_is_prepared_once_and_found_again(world: World) -> None:
    world.disk.put(file_of(b"a.txt"))
    request = world.request(b"/a.txt")
    first = world.respond(request)
    assert isinstance(first, Prepared)
    assert (first.status, content(first).body) == (200, (b"<a.txt>",))
    assert request[0].prepared == {key_of(request): first}
    assert world.ask(b"/a.txt", b"Cookie: another=browser") is first
    assert world.disk.found == [b"a.txt"]


def test_a_file_that_is_as_it_was_is_looked_at_again_and_not_prepared_again(world: World) -> None:
    world.disk.put(file_of(b"a.txt"))
    first = world.prepared(b"/a.txt")
    for _second in range(3):
        world.clock.now += FRESH_S
        assert not world.is_fresh(first)
        assert world.prepared(b"/a.txt") is first
    assert world.disk.found == [b"a.txt"] * 4


def test_a_file_that_changed_is_prepared_anew_at_once(world: World) -> None:
    world.disk.put(file_of(b"a.txt"))
    first = world.prepared(b"/a.txt")
    world.disk.put(file_of(b"a.txt", b"new", 1))
    assert not world.is_fresh(first)
    assert content(world.prepared(b"/a.txt")).body == (b"new",)


def test_requests_that_get_the_same_share_it(world: World) -> None:
    world.disk.put(file_of(b"a.txt"))
    first = world.prepared(b"/a.txt")
    for request in (
        world.request(b"/a.txt", b"Accept-Encoding: x"),
        world.request(b"/a.txt?query"),
        world.request(b"//a.txt"),
        world.request(b"/a.txt", b"If-None-Match: x"),
    ):
        assert world.respond(request) is first


@pytest.mark.parametrize(
    ("target", "fields", "method", "status"),
    [
        (b"/a.txt", [], b"HEAD", 200),
        (b"/large", [], b"HEAD", 200),
        (b"/large", [b"If-None-Match: *"], b"GET", 304),
        (b"/a.txt", [b"If-None-Match: *"], b"GET", 304),
        (b"/a.txt", [b'If-Match: "x"'], b"GET", 412),
        (b"/a.txt", [b"Accept-Encoding: *;q=0"], b"GET", 406),
        (b"/dir", [], b"GET", 308),
        (b"/dir/", [], b"GET", 200),
        (b"/missing", [], b"GET", 404),
        (b"/missing", [b"Accept: application/json"], b"GET", 404),
        (b"/.env", [], b"GET", 404),
        (b"/forbidden", [], b"GET", 403),
        (b"/private/x", [], b"GET", 401),
    ],
)
def test_what_is_in_memory_and_follows_from_what_was_looked_up_is_prepared(
    target: bytes, fields: list[bytes], method: bytes, status: int
) -> None:
    world = crowded()
    answer = world.prepared(target, *fields, method=method)
    assert answer.status == status
    assert world.prepared(target, *fields, method=method) is answer


NOW_OR_LATER = [b"/a.txt", b"/large", b"/forbidden", b"/broken", b"/dir/", b"/dir", b"/moved", b"/private/a", b"/none"]


@pytest.mark.parametrize("target", [*NOW_OR_LATER, b"/..", b"/.hidden"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_what_is_found_at_once_is_what_a_coroutine_finds(target: bytes, method: bytes) -> None:
    at_once, later = crowded(), crowded()
    head = at_once.request(target, method=method)
    found, wanted = (
        at_once.answers.find_now(head, at_once.clock.now, at_once.clock.wall_time_s()),
        later.ask(target, method=method),
    )
    assert (found is None) is not isinstance(wanted, Prepared)
    if found is not None and isinstance(wanted, Prepared):
        assert content(found) == content(wanted)
        if target == b"/none" and method != b"POST":
            assert not head[0].prepared, "names that come once are not remembered"
            found = at_once.answers.find_now(head, at_once.clock.now, at_once.clock.wall_time_s())
        assert head[0].prepared[key_of(head)] is found


@pytest.mark.parametrize("asked", [b"bytes=0-1", b"bytes=0-0,3-3", b"bytes=99-", b"lines=1"])
def test_a_part_is_found_at_once_and_not_remembered(asked: bytes) -> None:
    at_once, later = crowded(), crowded()
    head = at_once.request(b"/a.txt", b"Range: " + asked)
    found = at_once.answers.find_now(head, at_once.clock.now, at_once.clock.wall_time_s())
    assert found is not None
    wanted = content(later.ask(b"/a.txt", b"Range: " + asked))
    assert content(found) == wanted._replace(body=(b"".join(cast(Any, wanted.body)),))
    assert not head[0].prepared


def test_what_is_sent_from_a_file_is_decided_once() -> None:
    world = crowded()
    head = world.request(b"/large")

    def found_now() -> Prepared | None:
        return world.answers.find_now(head, world.clock.now, world.clock.wall_time_s())

    assert found_now() is None
    world.respond(head)
    looked_at = len(world.disk.found)
    assert found_now() is None
    assert len(world.disk.found) == looked_at
    world.disk.put(file_of(b"large"))
    assert isinstance(world.respond(head), Prepared)
    assert found_now() is not None, "it is small now"


def test_nothing_is_found_at_once_where_something_would_be_waited_for() -> None:
    world = crowded()
    world.disk.slow.add(b"a.txt")
    assert world.answers.find_now(world.request(b"/a.txt"), world.clock.now, world.clock.wall_time_s()) is None
    world.disk.slow.clear()
    found = world.answers.find_now(world.request(b"/a.txt"), world.clock.now, world.clock.wall_time_s())
    assert world.prepared(b"/a.txt") is found
    secret = world.request(b"/private/a", RIGHT)
    assert world.answers.find_now(secret, world.clock.now, world.clock.wall_time_s()) is None, (
        "a password is verified by a helper"
    )


RULES: list[dict[str, Any]] = [
    {},
    {"spa": True},
    {"clean_urls": True},
    {"headers": (HeaderRule(("*.js",), (("X-A", "b"),)),)},
    {"headers": (HeaderRule(("**",), (("X-A", "b"),)),)},
    {"rewrites": (RewriteRule("/app/*", "/none"),)},
    {"auth": (AuthRule(("/private/**",), users=(("aladdin", PASSWORD_HASH),)),)},
    {"security_headers": True},
]
PAGE_404 = b"404.html"


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("page", [False, True])
def test_what_is_not_there_is_answered_at_once_as_a_coroutine_answers_it(rules: dict[str, Any], page: bool) -> None:
    at_once, later = World(**rules), World(**rules)
    for world in (at_once, later):
        world.disk.put(file_of(b"index.html"), Directory(b"dir"), *([file_of(PAGE_404)] if page else []))
    for target in (b"/a", b"/b.js", b"/c/d", b"/app/x", b"/dir", b"/e/", b"/private/x", b"/%61", b"/.env", b"/b?c"):
        for fields in ([], [b"Accept: text/html"], [b"Accept: image/png"], [b"Accept-Encoding: gzip"]):
            head = at_once.request(target, *fields)
            found = at_once.answers.find_now(head, at_once.clock.now, at_once.clock.wall_time_s())
            if found is not None:
                assert content(found) == content(later.ask(target, *fields)), (target, fields)


@pytest.mark.parametrize(("rules", "runs"), [({}, 1), ({"headers": RULES[3]["headers"]}, 3), ({"spa": True}, 3)])
def test_where_a_site_says_nothing_of_paths_its_responder_need_not_be_asked_of_another_name(
    rules: dict[str, Any], runs: int
) -> None:
    asked: list[bytes] = []

    def counting(request: Request, site: Site, now: float) -> Steps:
        asked.append(request.line.asked)
        return respond(request, site, now)

    world = World(respond=counting, **rules)
    for target in (b"/a", b"/b", b"/c/d.txt"):
        found = world.answers.find_now(world.request(target), world.clock.now, world.clock.wall_time_s())
        assert found is not None
        assert found.status == 404
    assert len(asked) == runs
    for target in (b"/e/", b"/.f", b"/%67", b"/ringserve.toml"):
        world.answers.find_now(world.request(target), world.clock.now, world.clock.wall_time_s())
        assert asked[-1] == target, "it is none of those"
    world.disk.put(file_of(b"g"))
    found = world.answers.find_now(world.request(b"/g"), world.clock.now, world.clock.wall_time_s())
    assert found is not None
    assert found.status == 200


def test_paths_at_which_there_is_nothing_share_an_answer_until_the_page_for_it_changes() -> None:
    world = World()
    world.disk.put(file_of(PAGE_404, b"first"))

    def find(target: bytes) -> Prepared:
        found = world.answers.find_now(world.request(target), world.clock.now, world.clock.wall_time_s())
        assert found is not None
        return found

    first = find(b"/a")
    assert find(b"/b") is first
    world.disk.put(file_of(b"b"))
    assert find(b"/b").status == 200
    world.disk.put(file_of(PAGE_404, b"second"))
    assert content(find(b"/c")).body == (b"second",)
    for number in range(ALIKE_MAX + 1):
        world.answers.find_now(
            world.request(b"/a", b"Accept-Encoding: a%d" % number), world.clock.now, world.clock.wall_time_s()
        )
    assert len(world.answers._of_nothing) <= ALIKE_MAX


def crowded(**settings: Any) -> World:
    """A world with one of everything."""
    world = World(listing=True, auth=(auth("/private/**"),), redirects=(RedirectRule("/moved", "/a.txt"),), **settings)
    world.disk.put(
        file_of(b"a.txt"), large_file(b"large"), Directory(b"dir"), Failure(b"forbidden", 403),
        Directory(b"dir/", (Item(b"x", False, 1, 0),)), Failure(b"broken", 500), Failure(b"crowded", 503),
    )  # fmt: skip
    return world


def auth(*globs: str, realm: str = "Restricted") -> AuthRule:
    return AuthRule(globs, realm, (("aladdin", PASSWORD_HASH),))


@pytest.mark.parametrize(
    ("target", "fields", "method", "status"),
    [
        # A part is a copy, and there are as many as clients can think of
        (b"/a.txt", [b"Range: bytes=0-0"], b"GET", 206),
        (b"/a.txt", [b"Range: bytes=0-0,3-3"], b"GET", 206),
        (b"/a.txt", [b"Range: bytes=99-"], b"GET", 416),
        (b"/a.txt", [b"Range: lines=1-2"], b"GET", 200),
        (b"/a.txt", [b"Range: bytes=0-0", b'If-Range: "x"'], b"GET", 200),
        (b"/a.txt", [b"Range: bytes=0-0"], b"HEAD", 200),
        # It is not in memory
        (b"/large", [], b"GET", 200),
        # It says nothing of the path
        (b"/broken", [], b"GET", 500),
        (b"/crowded", [], b"GET", 503),
        # Nothing was looked up that could tell when it is over
        (b"/moved", [], b"GET", 308),
        (b"/..", [], b"GET", 400),
        (b"/a.txt", [], b"OPTIONS", 204),
        (b"/a.txt", [], b"POST", 405),
        (b"/a.txt", [], b"BREW", 501),
    ],
)
def test_what_is_not_prepared_is_found_each_time(
    target: bytes, fields: list[bytes], method: bytes, status: int
) -> None:
    world = crowded()
    for _again in range(2):
        request = world.request(target, *fields, method=method)
        answer = world.respond(request)
        assert isinstance(answer, Response)
        assert answer.status == status
        assert request[0].prepared == {}


def test_nothing_is_prepared_where_that_is_off() -> None:
    world = World(enabled=False)
    world.disk.put(file_of(b"a.txt"))
    request = world.request(b"/a.txt")
    assert isinstance(world.respond(request), Response)
    assert request[0].prepared == {}


def test_a_file_that_changed_while_it_was_loaded_answers_once(world: World) -> None:
    # The table stores such an entry stale: it is for those who waited for it, and for nobody after them.
    world.disk.put(file_of(b"a.txt", b"old"))
    world.disk.meanwhile = lambda: world.disk.put(file_of(b"a.txt", b"new", 1))
    answer = world.ask(b"/a.txt")
    assert isinstance(answer, Response)
    assert answer.body == (b"old",)
    assert content(world.prepared(b"/a.txt")).body == (b"new",)


def test_what_interrupts_a_look_leaves_nothing(world: World) -> None:
    class InterruptionError(Exception):
        pass

    def interrupt() -> None:
        raise InterruptionError

    world.disk.put(file_of(b"a.txt"))
    world.disk.meanwhile = interrupt
    request = world.request(b"/a.txt")
    with pytest.raises(InterruptionError):
        world.respond(request)
    assert request[0].prepared == {}
    assert world.prepared(b"/a.txt").status == 200


# -- what is made of several entries ----------------------------------------------------------------------------

CLEAN: dict[str, Any] = {"clean_urls": True, "spa": True, "listing": True}
WAYS: list[tuple[bytes, list[bytes]]] = [
    (b"/about?q", [b"about", b"about.html"]),
    (b"/users/7", [b"users/7", b"users/7.html", b"index.html"]),
    (b"/users/", [b"users/index.html", b"users.html", b"users/", b"index.html"]),
    (b"/dir/", [b"dir/index.html", b"dir.html", b"dir/"]),
    (b"/dir", [b"dir", b"dir.html"]),
    (b"/missing.js", [b"missing.js", b"missing.js.html", b"404.html"]),
]


def on_the_way() -> World:
    world = World(**CLEAN)
    world.disk.put(
        file_of(b"index.html"), file_of(b"about.html"), Directory(b"dir"),
        Directory(b"dir/", (Item(b"x", False, 1, 0),)),
    )  # fmt: skip
    return world


@pytest.mark.parametrize(("target", "way"), WAYS)
def test_an_answer_depends_on_everything_that_was_looked_at_on_the_way(target: bytes, way: list[bytes]) -> None:
    for path in way:
        world = on_the_way()
        answer = world.prepared(target)
        assert world.disk.found == way
        assert world.prepared(target) is answer
        world.disk.drop(Key(0, path))
        assert not world.is_fresh(answer), path
        again = world.prepared(target)
        assert again is not answer
        assert answer.body == b""
        assert again.status == answer.status


@pytest.mark.parametrize(("target", "way"), WAYS)
def test_an_answer_is_fresh_for_as_long_as_the_first_of_them_that_is_not(target: bytes, way: list[bytes]) -> None:
    for place, path in enumerate(way):
        world = on_the_way()
        done(world.disk.find(cast(Task, world.clock), Key(0, path)))
        world.clock.now += FRESH_S * 0.75
        answer = world.prepared(target)
        world.clock.now += FRESH_S * 0.125
        assert world.is_fresh(answer)
        world.clock.now += FRESH_S * 0.125
        assert not world.is_fresh(answer), place
        found = len(world.disk.found)
        # Looking at it again, and finding the others as fresh as they were, does not make more of it than there is.
        again = world.prepared(target)
        assert world.disk.found[found:] == way
        world.clock.now += FRESH_S * 0.625
        assert world.is_fresh(again)
        world.clock.now += FRESH_S * 0.125
        assert not world.is_fresh(again)


def test_looking_at_one_of_them_for_another_does_not_make_the_answer_fresh() -> None:
    world = on_the_way()
    answer = world.prepared(b"/about")
    world.clock.now += FRESH_S
    assert world.prepared(b"/about.html") is not answer
    assert not world.is_fresh(answer)


def test_answers_that_are_the_same_by_different_ways_end_apart() -> None:
    world = on_the_way()
    seven, eight = world.prepared(b"/users/7"), world.prepared(b"/users/8")
    assert content(seven) == content(eight)
    world.disk.put(file_of(b"users/7"))
    assert not world.is_fresh(seven)
    assert world.prepared(b"/users/8") is eight
    assert content(world.prepared(b"/users/7")).body == (b"<users/7>",)


def test_what_changes_while_the_rest_is_looked_at_is_not_prepared() -> None:
    world = on_the_way()
    world.disk.meanwhile = lambda: setattr(world.disk, "meanwhile", lambda: world.disk.put(file_of(b"about")))
    answer = world.ask(b"/about")
    assert isinstance(answer, Response)
    assert answer.body == (b"<about.html>",)
    assert content(world.prepared(b"/about")).body == (b"<about>",)


def test_an_entry_that_is_looked_at_twice_counts_once(world: World) -> None:
    answer = world.prepared(b"/404.html")
    assert world.disk.found == [b"404.html", b"404.html"]
    assert world.prepared(b"/404.html") is answer
    world.disk.drop(Key(0, b"404.html"))
    assert not world.is_fresh(answer)


# -- how much is prepared ---------------------------------------------------------------------------------------


def test_a_line_keeps_a_few_selections(world: World) -> None:
    world.disk.put(file_of(b"a.txt"))
    line = world.request(b"/a.txt")[0]
    for number in range(3 * PREPARED_PER_LINE_MAX):
        request = world.request(b"/a.txt", b"Accept-Encoding: x%d" % number)
        assert request[0] is line
        assert line.prepared.get(key_of(request)) is None
        world.respond(request)
        assert key_of(request) in line.prepared
        assert len(line.prepared) <= PREPARED_PER_LINE_MAX


def test_a_selection_that_nobody_has_again_is_not_kept_with_the_line(world: World) -> None:
    world.disk.put(file_of(b"a.txt"))
    line = world.request(b"/a.txt")[0]
    for field in (b"Accept-Encoding: ", b"If-None-Match: ", b"If-Modified-Since: "):
        world.ask(b"/a.txt", field + b"x" * 2000)
        assert line.prepared == {}
    world.ask(b"/a.txt", b"If-None-Match: " + b'"0123456789", ' * 20)
    assert len(line.prepared) == 1


@pytest.mark.parametrize("target", [b"/users/%d", b"/dir/?page=%d", b"/dir/x%d.js"])
def test_the_entries_keep_a_few_answers_and_the_others_give_their_memory_back(target: bytes) -> None:
    world = on_the_way()
    answers = [world.prepared(target % number) for number in range(3 * PREPARED_PER_PATH_MAX)]
    kept = {id(answer) for answer in answers if world.is_fresh(answer)}
    assert 1 <= len(kept) <= PREPARED_PER_PATH_MAX
    for answer in answers:
        assert bool(answer.body) is world.is_fresh(answer)


# -- which site -------------------------------------------------------------------------------------------------


def test_the_host_of_the_target_goes_before_the_field_and_an_unknown_one_gets_the_first_site() -> None:
    world = World(virtual_host=(HostConfig(names=("b.example",)), HostConfig(names=("*.c.example",))))
    for root, name in enumerate((b"a", b"b", b"c")):
        world.disk.put(file_of(b"x", name), root=root)
    cases = [
        (b"/x", b"unknown.example", b"a"),
        (b"/x", b"B.example:8080", b"b"),
        (b"/x", b"x.c.example", b"c"),
        (b"http://b.example/x", b"x.c.example", b"b"),
        (b"http://unknown.example/x", b"b.example", b"a"),
    ]
    for target, host, body in cases * 2:
        assert content(world.respond(world.memory.read(head_of(target, host)))).body == (body,), (target, host)
    assert content(world.respond(world.memory.read(head_of(b"/x", None, version=b"1.0")))).body == (b"a",)


# -- without a request ------------------------------------------------------------------------------------------


def test_what_could_not_be_read_gets_the_fields_of_everything() -> None:
    world = World(
        security_headers=True,
        headers=(HeaderRule(("**",), (("X-A", "yes"),)), HeaderRule(("/**/*",), (("X-B", "yes"),))),
    )
    response = world.answers.error(431)
    assert (response.status, bool(response.body)) == (431, True)
    assert dict(response.fields)[b"X-A"] == b"yes"
    assert b"X-B" not in dict(response.fields)
    assert b"X-Frame-Options" in dict(response.fields)


# -- passwords --------------------------------------------------------------------------------------------------


class Verifications:
    """Stands in for argon2: what was verified, and whether all of it is right."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.all_right = False
        monkeypatch.setattr(passwords, "verify", self.verify)

    def verify(self, password_hash: str, password: bytes) -> bool:
        self.seen.append((password_hash, password))
        return self.all_right or (password_hash, password) == (PASSWORD_HASH, b"open sesame")


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> Verifications:
    return Verifications(monkeypatch)


def guarded(**settings: Any) -> World:
    world = World(auth=(auth("/private/**", realm="A"), auth("/vault/**", realm="B")), **settings)
    world.disk.put(*(file_of(directory + name) for directory in (b"private/", b"vault/") for name in (b"x", b"y")))
    return world


def credentials(user: bytes, password: bytes) -> bytes:
    return b"Authorization: Basic " + base64.b64encode(user + b":" + password)


def test_a_right_password_is_verified_once_for_all_that_it_opens(verifications: Verifications) -> None:
    world = guarded()
    for _again in range(2):
        for target in (b"/private/x", b"/private/y", b"/private/x?q"):
            assert world.prepared(target, RIGHT).status == 200
    assert verifications.seen == [(PASSWORD_HASH, b"open sesame")]
    assert world.threads.runs == 1


def test_a_right_password_is_that_of_one_guard(verifications: Verifications) -> None:
    world = guarded()
    for target in (b"/private/x", b"/vault/x", b"/private/y", b"/vault/y"):
        assert world.prepared(target, RIGHT).status == 200
    assert len(verifications.seen) == 2


def test_a_wrong_password_is_verified_wherever_it_is_said(verifications: Verifications) -> None:
    world = guarded()
    wrong = credentials(b"aladdin", b"wrong")
    for target in (b"/private/x", b"/private/y", b"/private/z"):
        assert world.prepared(target, wrong).status == 401
    assert verifications.seen == [(PASSWORD_HASH, b"wrong")] * 3
    # The same again, to the same address, is the same answer; it tells nobody anything, and costs nothing.
    assert world.prepared(b"/private/x", wrong).status == 401
    assert len(verifications.seen) == 3
    assert world.prepared(b"/private/x", RIGHT).status == 200


def test_an_answer_for_a_password_is_nobody_elses(verifications: Verifications) -> None:
    world = guarded()
    right = world.prepared(b"/private/x", RIGHT)
    for fields in ([], [credentials(b"aladdin", b"wrong")], [b"Authorization: Bearer x"]):
        answer = world.prepared(b"/private/x", *fields)
        assert answer.status == 401
        assert answer is not right
    assert world.prepared(b"/private/x", RIGHT) is right
    assert len(verifications.seen) == 2


def test_an_unknown_user_costs_a_verification_and_is_never_right(verifications: Verifications) -> None:
    world = guarded()
    verifications.all_right = True
    for target in (b"/private/x", b"/private/y"):
        assert content(world.ask(target, credentials(b"cassim", b"open sesame"))).status == 401
    assert verifications.seen == [(world.verifier.stand_in_hash, b"open sesame")] * 2
    password_hash, _password = verifications.seen[0]
    assert password_hash.split("$")[3] == passwords.make_hash(b"x").split("$")[3], "as expensive as a user's"


@pytest.mark.parametrize(("user", "password"), [(b"aladdi", b"nopen sesame"), (b"", b"aladdin:open sesame")])
def test_where_the_name_ends_makes_a_difference(verifications: Verifications, user: bytes, password: bytes) -> None:
    world = guarded()
    assert world.prepared(b"/private/x", RIGHT).status == 200
    verifications.all_right = True
    assert content(world.ask(b"/private/y", credentials(user, password))).status == 401


def test_no_more_users_are_remembered_than_the_limit(
    verifications: Verifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringserve.connection.verifier, "VERIFIED_MAX", 3)
    world = guarded()
    verifications.all_right = True
    for number in range(10):
        for target in (b"/private/x", b"/private/y"):
            assert content(world.ask(target, credentials(b"aladdin", b"%d" % number))).status == 200
    assert len(verifications.seen) == 10, "the last one is remembered"
    known = 0
    for number in range(10):
        before = len(verifications.seen)
        world.ask(b"/private/z", credentials(b"aladdin", b"%d" % number))
        known += len(verifications.seen) == before
    assert known <= 3


def test_what_is_remembered_of_a_password_is_of_no_use_elsewhere(verifications: Verifications) -> None:
    worlds = guarded(), guarded()
    for world in worlds:
        assert world.prepared(b"/private/x", RIGHT).status == 200
    ((_guard, one),), ((_guard, other),) = (world.verifier._verified for world in worlds)
    assert one != other, "a secret of each process is in it"
    assert b"sesame" not in one
    assert len(verifications.seen) == 2


def test_busy_helpers_are_503_for_now(verifications: Verifications) -> None:
    world = guarded()
    world.threads.busy = True
    for _again in range(2):
        answer = world.ask(b"/private/x", RIGHT)
        assert isinstance(answer, Response)
        assert answer.status == 503
        assert dict(answer.fields)[b"Retry-After"] == b"1"
    assert verifications.seen == []
    world.threads.busy = False
    assert world.prepared(b"/private/x", RIGHT).status == 200
    world.threads.busy = True
    assert world.prepared(b"/private/y", RIGHT).status == 200, "who is known does not need them"


@pytest.mark.usefixtures("verifications")
def test_a_password_that_is_longer_than_any_is_wrong_without_a_look(verifications: Verifications) -> None:
    # To normalize 11,000 combining marks takes 0.7 s, in which no thread runs (unicodedata keeps the interpreter).
    world = guarded()
    verifications.all_right = True
    for length, status in ((passwords.PASSWORD_BYTES_MAX, 200), (passwords.PASSWORD_BYTES_MAX + 1, 401)):
        assert world.ask(b"/private/x", credentials(b"aladdin", b"a" * length)).status == status
    assert [len(password) for _hash, password in verifications.seen] == [passwords.PASSWORD_BYTES_MAX]


def test_a_verification_is_for_the_network_of_its_client() -> None:
    world = guarded()
    for client in ("192.0.2.1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:3::9", "unix"):
        world.clock.client = client
        assert content(world.ask(b"/private/x", credentials(b"aladdin", client.encode()))).status == 401
    assert world.threads.origins == ["192.0.2.1", "2001:db8:1::", "2001:db8:1::", "unix"]


def test_the_library_verifies(world: World) -> None:
    world = guarded()
    assert world.prepared(b"/private/x", RIGHT).status == 200
    assert content(world.ask(b"/private/x", credentials(b"aladdin", b"open sesam"))).status == 401
    assert content(world.ask(b"/private/x", credentials(b"cassim", b"open sesame"))).status == 401


# -- that nobody could tell -------------------------------------------------------------------------------------

PATHS = (b"index.html", b"a", b"a.html", b"a/index.html", b"private/x", b"404.html", b"401.html")
TARGETS = (
    b"/",
    b"/a",
    b"/a/",
    b"/a?q",
    b"/b",
    b"/c/",
    b"/x.js",
    b"/private/x",
    b"/alias/private/x",
    b"/alias/b",
    b"/.env",
)
FIELDS: tuple[tuple[bytes, ...], ...] = (
    (), (b"Accept: application/json",), (b"Accept: text/html",), (RIGHT,), (credentials(b"aladdin", b"wrong"),),
    (b"Origin: https://app.example",), (b"If-None-Match: *",), (b"Accept-Encoding: gzip",), (b"Range: bytes=0-0",),
    (b"If-None-Match: " + file_of(b"a.html").validators.entity_tag,), (b"If-None-Match: rubbish",),
    (b"If-Modified-Since: Fri, 31 Dec 1999 23:59:59 GMT",),
    (b"If-None-Match: rubbish", b"If-Modified-Since: Fri, 31 Dec 1999 23:59:59 GMT"),
)  # fmt: skip
KINDS = ("file", "other file", "coded", "directory", "nothing", "403", "503")
CHANGES = st.tuples(st.just("change"), st.sampled_from(PATHS), st.sampled_from(KINDS))
REQUESTS = st.tuples(
    st.just("ask"), st.sampled_from(TARGETS), st.tuples(st.sampled_from(FIELDS), st.sampled_from((b"GET", b"HEAD")))
)
WAITS = st.tuples(st.just("wait"), st.sampled_from((0.3, 0.6, 1.0)), st.none())
CONFIGS: list[dict[str, Any]] = [
    {},
    {"clean_urls": True},
    {"spa": True, "listing": True},
    {
        "spa": True, "clean_urls": True, "listing": True, "cors_origin": ("https://app.example",),
        "auth": (auth("/private/**"),), "rewrites": (RewriteRule("/alias/**", "/$1"),),
        "headers": (HeaderRule(("*.html",), (("X-Page", "yes"),)),),
    },
]  # fmt: skip


def entry_of(path: bytes, kind: str) -> Entry:
    if kind == "nothing":
        return Failure(path, 404)
    if kind == "directory":
        return Directory(path)
    if kind.isdigit():
        return Failure(path, int(kind))
    file = file_of(path, None if kind == "file" else b"another", int(kind == "other file"))
    if kind == "coded":
        file.siblings = {
            **file.siblings,
            b"gzip": File(path + b".gz", status_of(2), b"gz", None, int(WALL_S) * 10**9, b"gzip"),
        }
    return file


def expected(world: World, target: bytes, *fields: bytes, method: bytes) -> Response:
    """What is answered by reading the request anew and looking at everything now."""
    request = Parser(LIMITS, CONFIGURED_FIELDS).parse(head_of(target, b"a", *fields, method=method))
    site = world.sites.choose(request.block.selection.host)
    steps = respond(request, site, world.clock.wall_time_s())
    try:
        wanted = next(steps)
        while True:
            if isinstance(wanted, Claim):
                wanted = steps.send(Verified(wanted.password == b"open sesame"))
            else:
                assert isinstance(wanted, Lookup)
                wanted = steps.send(world.disk.there.get(wanted.key) or Failure(wanted.key.path, 404))
    except StopIteration as ended:
        response: Response = ended.value
        return response


@settings(max_examples=100, deadline=None, derandomize=True)
@given(config=st.sampled_from(CONFIGS[::-1]), events=st.lists(CHANGES | REQUESTS | REQUESTS | WAITS, max_size=40))
def test_no_answer_is_another_than_it_would_be_without_any_memory(
    config: dict[str, Any], events: list[tuple[str, Any, Any]]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        Verifications(monkeypatch)
        world = World(**config)
        world.disk.put(file_of(b"index.html"), file_of(b"a.html"), file_of(b"private/x"))
        for what, first, second in events:
            if what == "change":
                world.disk.put(entry_of(first, second))
            elif what == "wait":
                world.clock.now += first
            else:
                fields, method = second
                for _again in range(2):
                    answer = world.ask(first, *fields, method=method)
                    assert content(answer) == expected(world, first, *fields, method=method)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    config=st.sampled_from(CONFIGS[::-1]),
    rounds=st.lists(st.tuples(st.lists(CHANGES, max_size=3), st.lists(REQUESTS, min_size=1, max_size=12)), max_size=6),
)
def test_a_change_that_nobody_tells_of_is_seen_after_a_second(
    config: dict[str, Any], rounds: list[tuple[list[tuple[str, Any, Any]], list[tuple[str, Any, Any]]]]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        Verifications(monkeypatch)
        world = World(**config)
        for changes, requests in rounds:
            for _what, path, kind in changes:
                world.disk.put_unseen(entry_of(path, kind))
            # Whoever asks meanwhile, and has an old answer, must not keep it fresh for others.
            for tenth in range(12):
                _what, target, (fields, method) = requests[tenth % len(requests)]
                world.ask(target, *fields, method=method)
                world.clock.now += FRESH_S / 10
            for _what, target, (fields, method) in requests:
                answer = world.ask(target, *fields, method=method)
                assert content(answer) == expected(world, target, *fields, method=method)


# -- a further question -----------------------------------------------------------------------------------------


class Weather(NamedTuple):
    """A question of this test's own, that nothing of the server knows."""

    place: bytes
    lasts: bool


@pytest.mark.parametrize("lasts", [False, True])
def test_a_question_is_a_class_and_one_source_and_says_whether_its_answer_may_be_kept(lasts: bool) -> None:
    asked: list[bytes] = []

    def respond(_request: Request, _site: Site, _now: float) -> Steps:
        yield Lookup(Key(0, b"page"))
        told = yield Weather(b"here", lasts)
        assert isinstance(told, bytes)
        return Response(200, (), (told,), len(told))

    async def tell(_task: Asker, _request: Request, question: Weather) -> bytes:
        asked.append(question.place)
        return b"rain %d" % len(asked)

    world = World(respond=respond, more={Weather: tell})
    world.disk.put(file_of(b"page"))
    answers = [content(world.ask(b"/")).body for _again in range(3)]
    assert answers == [(b"rain 1",)] * 3 if lasts else [(b"rain 1",), (b"rain 2",), (b"rain 3",)]
    assert asked == [b"here"] * (1 if lasts else 3)
