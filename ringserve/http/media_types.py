"""Content types by file name: a table of our own, so that a site is served alike on every host.

The host's files (/etc/mime.types) and the standard library's `mimetypes`, which reads them, are not used: what they
say differs between machines. Text types, JSON and JavaScript get `charset=utf-8`; what is not in the table is
`application/octet-stream`, which a browser offers to save and does not run.
"""

from __future__ import annotations

from functools import cache

UNKNOWN = b"application/octet-stream"

_WITH_CHARSET = {
    "application/geo+json": "geojson",
    "application/json": "json map",
    "application/ld+json": "jsonld",
    "application/manifest+json": "webmanifest",
    "application/toml": "toml",
    "application/yaml": "yaml yml",
    "text/calendar": "ics",
    "text/css": "css",
    "text/csv": "csv",
    "text/html": "htm html",
    "text/javascript": "js mjs",
    "text/markdown": "markdown md",
    "text/plain": "c conf h ini log py sh txt",
    "text/vcard": "vcf",
    "text/vtt": "vtt",
}

_WITHOUT_CHARSET = {
    "application/atom+xml": "atom",
    "application/dash+xml": "mpd",
    "application/epub+zip": "epub",
    "application/gzip": "gz tgz",
    "application/java-archive": "jar",
    "application/msword": "doc",
    "application/octet-stream": "br iso",
    "application/pdf": "pdf",
    "application/rss+xml": "rss",
    "application/rtf": "rtf",
    "application/vnd.android.package-archive": "apk",
    "application/vnd.apache.parquet": "parquet",
    "application/vnd.apple.mpegurl": "m3u8",
    "application/vnd.debian.binary-package": "deb",
    "application/vnd.ms-excel": "xls",
    "application/vnd.ms-fontobject": "eot",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.pmtiles": "pmtiles",
    "application/wasm": "wasm",
    "application/x-7z-compressed": "7z",
    "application/x-bzip2": "bz2",
    "application/x-tar": "tar",
    "application/x-xz": "xz",
    "application/xhtml+xml": "xhtml",
    "application/xml": "xml",
    "application/xslt+xml": "xsl",
    "application/zip": "zip",
    "application/zstd": "zst",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/midi": "mid",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "oga ogg opus",
    "audio/wav": "wav",
    "audio/webm": "weba",
    "font/otf": "otf",
    "font/ttf": "ttf",
    "font/woff": "woff",
    "font/woff2": "woff2",
    "image/apng": "apng",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/jpeg": "jpeg jpg",
    "image/jxl": "jxl",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/tiff": "tif tiff",
    "image/vnd.microsoft.icon": "ico",
    "image/webp": "webp",
    "video/iso.segment": "m4s",
    "video/matroska": "mkv",
    "video/mp2t": "ts",
    "video/mp4": "m4v mp4",
    "video/mpeg": "mpeg",
    "video/ogg": "ogv",
    "video/quicktime": "mov",
    "video/webm": "webm",
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
    extension.encode(): (name + parameter).encode()
    for types, parameter in ((_WITH_CHARSET, "; charset=utf-8"), (_WITHOUT_CHARSET, ""))
    for name, extensions in types.items()
    for extension in extensions.split()
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
