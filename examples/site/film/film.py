"""Makes film.webm and poster.png, beside this file: four turns of a ring. Needs ffmpeg (Debian 12: apt-get install
ffmpeg), and else only the standard library.

python3 film.py

The pictures differ in their colours alone. So the shapes are drawn once, as a number for each pixel, and a frame is
those numbers looked up in a table of the moment's colours.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT = 640, 360
FRAMES_A_SECOND = 20
TURN_S = 4.0
TURNS = (3, 4, 2, 3)
"""How many submissions each turn hands over. Together they go once around the submission queue."""
DURATION_S = TURN_S * len(TURNS)
KEYFRAME_EVERY = 40
"""Frames. A player that seeks begins at the keyframe before, so there is one every two seconds."""
POSTER_S = 7.45

SUBMISSIONS, COMPLETIONS = 12, 24
"""Entries of the two queues. The kernel makes the second twice as long as the first."""
LEVELS = 5
"""Steps of coverage on the edge of a shape. Shapes times levels have to fit into a byte."""

Colour = tuple[int, int, int]
GROUND: Colour = (17, 21, 28)
DARK: Colour = (44, 52, 66)
CONTROL: Colour = (130, 182, 255)
DATA: Colour = (92, 210, 190)
INTERRUPT: Colour = (243, 180, 95)

BAR_TOP, BAR_HEIGHT = HEIGHT - 12, 4
FADE_S = 0.2


class Shape(NamedTuple):
    """distance: how far within the shape a point is, in pixels; negative outside. lit: how bright it is at a time."""

    distance: Callable[[float, float], float]
    colour: Colour
    lit: Callable[[float], float]


def segment(centre: float, outer: float, inner: float, number: int, count: int) -> Callable[[float, float], float]:
    """One of the segments of a ring around (centre, middle of the picture). The gaps have parallel sides."""

    def distance(x: float, y: float) -> float:
        across, down = x - centre, y - (HEIGHT - 16) / 2
        radius = math.hypot(across, down)
        if not inner - 1 <= radius <= outer + 1:
            return -1.0
        turn = (math.atan2(across, -down) / math.tau) % 1 * count
        if int(turn) % count != number:
            return -1.0
        to_side = math.sin(min(turn % 1, 1 - turn % 1) * math.tau / count) * radius - 2
        return min(outer - radius, radius - inner, to_side)

    return distance


def cell(left: float, top: float, size: float) -> Callable[[float, float], float]:
    """A square."""
    return lambda x, y: min(x - left, left + size - x, y - top, top + size - y)


def between(start: float, end: float) -> Callable[[float], float]:
    """1 from start to end, with a fade on both sides."""
    return lambda now: max(0.0, min(1.0, (now - start) / FADE_S, (end - now) / FADE_S))


def any_of(times: list[Callable[[float], float]]) -> Callable[[float], float]:
    """The brightest of several."""
    return lambda now: max((bright(now) for bright in times), default=0.0)


def shapes() -> list[Shape]:
    """Both rings and the buffers between them, with what happens to each."""
    made: list[Shape] = []
    in_order = [(turn, place) for turn, count in enumerate(TURNS) for place in range(count)]
    for number, (turn, place) in enumerate(in_order):
        start = turn * TURN_S
        queued = between(start + 0.3 + 0.35 * place, start + 1.9 + 0.08 * place)
        made.append(Shape(segment(150, 110, 72, number, SUBMISSIONS), CONTROL, queued))
        finished = between(start + 2.3 + 0.3 * place, start + 3.55 + 0.08 * place)
        made.append(Shape(segment(490, 110, 72, number, COMPLETIONS), INTERRUPT, finished))
    made += (
        Shape(segment(490, 110, 72, number, COMPLETIONS), INTERRUPT, between(0, 0))
        for number in range(len(in_order), COMPLETIONS)
    )
    for number in range(9):
        holds = [
            between(turn * TURN_S + 2.0 + 0.3 * place, turn * TURN_S + 3.75)
            for turn, place in in_order
            if (2 * turn + 4 * place) % 9 == number
        ]
        left, top = 287 + 24 * (number % 3), (HEIGHT - 16) / 2 - 33 + 24 * (number // 3)
        made.append(Shape(cell(left, top, 18), DATA, any_of(holds)))
    return made


def draw(made: list[Shape]) -> bytes:
    """A number for each pixel: 0 for the ground, else the shape and how much of the pixel it covers."""
    assert len(made) * LEVELS < 256, "a number is a byte"
    numbers = bytearray(WIDTH * HEIGHT)
    for index, shape in enumerate(made):
        for y in range(BAR_TOP):
            for x in range(WIDTH):
                inside = shape.distance(x + 0.5, y + 0.5) + 0.5
                if inside > 0:
                    numbers[y * WIDTH + x] = 1 + index * LEVELS + min(LEVELS - 1, int(inside * LEVELS))
    return bytes(numbers)


def mix(one: Colour, other: Colour, part: float) -> Colour:
    """A colour between two."""
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue


def frame(numbers: bytes, made: list[Shape], now: float) -> bytes:
    """The picture at a time: its green, its blue and its red, as ffmpeg's format gbrp has them."""
    colours = [GROUND]
    for shape in made:
        colour = mix(DARK, shape.colour, shape.lit(now))
        colours += [mix(GROUND, colour, (level + 1) / LEVELS) for level in range(LEVELS)]
    done = round(WIDTH * now / DURATION_S)
    planes = b""
    for channel in (1, 2, 0):
        table = bytes(colour[channel] for colour in colours).ljust(256, b"\0")
        plane = numbers.translate(table)
        bar = (bytes([CONTROL[channel]]) * done + bytes([DARK[channel]]) * (WIDTH - done)) * BAR_HEIGHT
        planes += plane[: BAR_TOP * WIDTH] + bar + plane[(BAR_TOP + BAR_HEIGHT) * WIDTH :]
    return planes


def encode(pictures: bytes, *options: str) -> None:
    """Have ffmpeg write a file of these pictures."""
    source = ("-f", "rawvideo", "-pixel_format", "gbrp", "-video_size", f"{WIDTH}x{HEIGHT}")
    rate = ("-framerate", str(FRAMES_A_SECOND))
    subprocess.run(["ffmpeg", "-v", "error", "-y", *source, *rate, "-i", "-", *options], input=pictures, check=True)


if __name__ == "__main__":
    made = shapes()
    numbers = draw(made)
    count = int(DURATION_S * FRAMES_A_SECOND)
    film = b"".join(frame(numbers, made, number / FRAMES_A_SECOND) for number in range(count))
    here = Path(__file__).parent
    encode(
        film, "-vf", "scale=out_color_matrix=bt709", "-pix_fmt", "yuv420p", "-colorspace", "bt709",
        "-color_primaries", "bt709", "-color_trc", "bt709", "-c:v", "libvpx-vp9", "-crf", "30", "-b:v", "0",
        "-g", str(KEYFRAME_EVERY), "-keyint_min", str(KEYFRAME_EVERY), "-deadline", "best",
        # The index in front, so that a player knows where to seek before it has seen the end.
        "-cues_to_front", "1", "-bitexact", str(here / "film.webm"),
    )  # fmt: skip
    encode(frame(numbers, made, POSTER_S), "-pix_fmt", "rgb24", "-bitexact", str(here / "poster.png"))
