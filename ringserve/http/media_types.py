"""Content types by file name: a table of our own, so that a site is served alike on every host.

The host's files (/etc/mime.types) and the standard library's `mimetypes`, which reads them, are not used: what they
say differs between machines. Text types, JSON and JavaScript get `charset=utf-8`; what is not in the table is
`application/octet-stream`, which a browser offers to save and does not run.
"""

from __future__ import annotations

from functools import cache

UNKNOWN = b"application/octet-stream"

_WITH_CHARSET = {
    "css": "text/css",
    "c": "text/plain",
    "conf": "text/plain",
    "csv": "text/csv",
    "h": "text/plain",
    "ini": "text/plain",
    "py": "text/plain",
    "sh": "text/plain",
    "toml": "application/toml",
    "htm": "text/html",
    "html": "text/html",
    "ics": "text/calendar",
    "js": "text/javascript",
    "json": "application/json",
    "jsonld": "application/ld+json",
    "map": "application/json",
    "markdown": "text/markdown",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "geojson": "application/geo+json",
    "log": "text/plain",
    "txt": "text/plain",
    "vcf": "text/vcard",
    "vtt": "text/vtt",
    "webmanifest": "application/manifest+json",
    "yaml": "application/yaml",
    "yml": "application/yaml",
}

_WITHOUT_CHARSET = {
    "7z": "application/x-7z-compressed",
    "aac": "audio/aac",
    "apk": "application/vnd.android.package-archive",
    "apng": "image/apng",
    "atom": "application/atom+xml",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "br": "application/octet-stream",
    "bz2": "application/x-bzip2",
    "deb": "application/vnd.debian.binary-package",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "eot": "application/vnd.ms-fontobject",
    "epub": "application/epub+zip",
    "flac": "audio/flac",
    "gif": "image/gif",
    "gz": "application/gzip",
    "heic": "image/heic",
    "ico": "image/vnd.microsoft.icon",
    "iso": "application/octet-stream",
    "jar": "application/java-archive",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "jxl": "image/jxl",
    "m3u8": "application/vnd.apple.mpegurl",
    "m4a": "audio/mp4",
    "m4s": "video/iso.segment",
    "m4v": "video/mp4",
    "mid": "audio/midi",
    "mkv": "video/matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpd": "application/dash+xml",
    "mpeg": "video/mpeg",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "ogv": "video/ogg",
    "opus": "audio/ogg",
    "otf": "font/otf",
    "parquet": "application/vnd.apache.parquet",
    "pdf": "application/pdf",
    "pmtiles": "application/vnd.pmtiles",
    "png": "image/png",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "rss": "application/rss+xml",
    "rtf": "application/rtf",
    "svg": "image/svg+xml",
    "tar": "application/x-tar",
    "tgz": "application/gzip",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "ts": "video/mp2t",
    "ttf": "font/ttf",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "weba": "audio/webm",
    "webm": "video/webm",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xhtml": "application/xhtml+xml",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "application/xml",
    "xsl": "application/xslt+xml",
    "xz": "application/x-xz",
    "zip": "application/zip",
    "zst": "application/zstd",
}

_COMPRESSIBLE = frozenset(
    (
        b"application/json",
        b"application/xml",
        b"application/wasm",
        b"application/yaml",
        b"application/toml",
        b"application/rtf",
        b"application/vnd.apple.mpegurl",
        b"application/vnd.ms-fontobject",
        b"font/ttf",
        b"font/otf",
        b"image/bmp",
        b"image/vnd.microsoft.icon",
    )
)

_BY_EXTENSION: dict[bytes, bytes] = {
    **{extension.encode(): f"{name}; charset=utf-8".encode() for extension, name in _WITH_CHARSET.items()},
    **{extension.encode(): name.encode() for extension, name in _WITHOUT_CHARSET.items()},
}


@cache  # there are as many types as the table has
def is_compressible(content_type: bytes) -> bool:
    """Whether files of a type are worth compressing, so that siblings of them are looked for."""
    name = content_type.partition(b";")[0]
    return name.startswith(b"text/") or name in _COMPRESSIBLE or name.endswith((b"+json", b"+xml"))


def known_type(path: bytes) -> bytes | None:
    """The Content-Type for a path by what follows the last dot of its last segment, in any case; None if it is not in
    the table.
    """
    stem, _dot, extension = path.rpartition(b".")  # one that has a slash is in no table
    return _BY_EXTENSION.get(extension.lower()) if stem and not stem.endswith(b"/") else None


def content_type(path: bytes) -> bytes:
    """The Content-Type for a path."""
    return known_type(path) or UNKNOWN
