"""Requests over HTTP/1.1 that two parsers could read as something different, each with another request hidden in it.

A row is a name and the bytes; `{hidden}` in them is the path of the request that must never be served, `{shown}` the
path of the one that may be. Used by test_smuggling.
"""

HIDDEN = b"GET {hidden} HTTP/1.1\r\nhost: localhost\r\n\r\n"


def _post(*headers: bytes, body: bytes = b"", end: bytes = b"\r\n", version: bytes = b"1.1") -> bytes:
    lines = [b"POST {shown} HTTP/" + version, b"host: localhost", *headers]
    return end.join(lines) + end + end + body


_N = len(HIDDEN) - len(b"{hidden}") + 24
"""Bytes of HIDDEN once the path, of 24 bytes, is filled in."""
_CL = b"content-length: %d" % _N
_CHUNKED_END = b"0\r\n\r\n"
_TE = b"transfer-encoding: chunked"


def _chunk(data: bytes, size: bytes | None = None) -> bytes:
    return (b"%x" % len(data) if size is None else size) + b"\r\n" + data + b"\r\n"


ROWS: dict[str, bytes] = {
    # Content-Length beside Transfer-Encoding
    "cl-then-te": _post(b"content-length: %d" % (_N + 5), _TE, body=_CHUNKED_END + HIDDEN),
    "te-then-cl": _post(_TE, b"content-length: %d" % (_N + 5), body=_CHUNKED_END + HIDDEN),
    "te-cl-short": _post(_TE, b"content-length: 4", body=b"%x\r\n" % _N + HIDDEN + b"\r\n" + _CHUNKED_END),
    "cl-zero-and-te": _post(b"content-length: 0", _TE, body=b"%x\r\n" % _N + HIDDEN + b"\r\n" + _CHUNKED_END),
    # Transfer-Encoding disguised
    "te-unknown": _post(b"transfer-encoding: xchunked", _CL, body=HIDDEN),
    "te-unknown-alone": _post(b"transfer-encoding: xchunked", body=HIDDEN),
    "te-identity": _post(b"transfer-encoding: identity", _CL, body=HIDDEN),
    "te-twice": _post(_TE, _TE, body=_CHUNKED_END + HIDDEN),
    "te-twice-other": _post(_TE, b"transfer-encoding: x", body=_CHUNKED_END + HIDDEN),
    "te-chunked-chunked": _post(b"transfer-encoding: chunked, chunked", body=_CHUNKED_END + HIDDEN),
    "te-gzip-chunked": _post(b"transfer-encoding: gzip, chunked", body=_CHUNKED_END + HIDDEN),
    "te-chunked-identity": _post(b"transfer-encoding: chunked, identity", body=_CHUNKED_END + HIDDEN),
    "te-space-before-colon": _post(b"transfer-encoding : chunked", _CL, body=_CHUNKED_END + HIDDEN),
    "te-vertical-tab": _post(b"transfer-encoding: \x0bchunked", _CL, body=HIDDEN),
    "te-nul": _post(b"transfer-encoding: chunked\x00", _CL, body=HIDDEN),
    "te-quoted": _post(b'transfer-encoding: "chunked"', _CL, body=HIDDEN),
    "te-folded": _post(b"transfer-encoding:\r\n chunked", _CL, body=_CHUNKED_END + HIDDEN),
    "te-after-bare-cr": _post(b"x: y\rtransfer-encoding: chunked", _CL, body=HIDDEN),
    "te-after-bare-lf": _post(b"x: y\ntransfer-encoding: chunked", _CL, body=_CHUNKED_END + HIDDEN),
    "te-in-http-1.0": _post(_TE, _CL, body=_CHUNKED_END + HIDDEN, version=b"1.0"),
    # Content-Length disguised
    "cl-twice-same": _post(_CL, _CL, body=HIDDEN),
    "cl-twice-different": _post(b"content-length: 0", _CL, body=HIDDEN),
    "cl-list-same": _post(b"content-length: %d, %d" % (_N, _N), body=HIDDEN),
    "cl-list-different": _post(b"content-length: 0, %d" % _N, body=HIDDEN),
    "cl-negative": _post(b"content-length: -1", body=HIDDEN),
    "cl-plus": _post(b"content-length: +%d" % _N, body=HIDDEN),
    "cl-hex": _post(b"content-length: 0x%x" % _N, body=HIDDEN),
    "cl-exponent": _post(b"content-length: 0e0", body=HIDDEN),
    "cl-spaced": _post(b"content-length: 0 %d" % _N, body=HIDDEN),
    "cl-underscored": _post(b"content_length: %d" % _N, body=HIDDEN),
    "cl-empty": _post(b"content-length: ", body=HIDDEN),
    "cl-beyond-64-bits": _post(b"content-length: 18446744073709551616", body=HIDDEN),
    "cl-space-before-colon": _post(b"content-length : %d" % _N, body=HIDDEN),
    "cl-folded": _post(b"content-length:\r\n %d" % _N, body=HIDDEN),
    # Chunks
    "chunk-size-negative": _post(_TE, body=b"-1\r\n" + HIDDEN),
    "chunk-size-0x": _post(_TE, body=_chunk(b"hello", b"0x5") + _CHUNKED_END + HIDDEN),
    "chunk-size-plus": _post(_TE, body=_chunk(b"hello", b"+5") + _CHUNKED_END + HIDDEN),
    "chunk-size-space-before": _post(_TE, body=_chunk(b"hello", b" 5") + _CHUNKED_END + HIDDEN),
    "chunk-size-beyond-64-bits": _post(_TE, body=b"10000000000000000\r\n" + HIDDEN),
    "chunk-size-nothing": _post(_TE, body=b"\r\n" + HIDDEN),
    "chunk-line-ends-in-lf": _post(_TE, body=b"5\nhello\r\n" + _CHUNKED_END + HIDDEN),
    "chunk-extension-hides-lf": _post(_TE, body=b"5;\nhello\r\n" + _CHUNKED_END + HIDDEN),
    "chunk-extension-hides-cr": _post(_TE, body=b"5;\rx\r\nhello\r\n" + _CHUNKED_END + HIDDEN),
    "chunk-longer-than-said": _post(_TE, body=b"3\r\nhello\r\n" + _CHUNKED_END + HIDDEN),
    "chunk-data-without-end": _post(_TE, body=b"5\r\nhello" + _CHUNKED_END + HIDDEN),
    "chunk-data-ends-in-lf": _post(_TE, body=b"5\r\nhello\n" + _CHUNKED_END + HIDDEN),
    "chunk-last-ends-in-lf": _post(_TE, body=b"5\r\nhello\r\n0\n\n" + HIDDEN),
    # Lines and names
    "lines-end-in-lf": _post(_CL, body=HIDDEN, end=b"\n"),
    "lines-end-in-cr": _post(_CL, body=HIDDEN, end=b"\r"),
    "header-folded": _post(b"x: y\r\n z", _CL, body=HIDDEN),
    "header-name-with-space": _post(b"x y: z", _CL, body=HIDDEN),
    "header-name-empty": _post(b": z", _CL, body=HIDDEN),
    "header-without-colon": _post(b"xyz", _CL, body=HIDDEN),
    "header-name-with-nul": _post(b"x\x00y: z", _CL, body=HIDDEN),
    "header-value-with-nul": _post(b"x: y\x00z", _CL, body=HIDDEN),
    "first-header-begins-with-space": _post(body=HIDDEN).replace(b"\r\nhost", b"\r\n host", 1),
    "host-twice": _post(b"host: localhost", _CL, body=HIDDEN),
    "host-missing": _post(_CL, body=HIDDEN).replace(b"host: localhost\r\n", b"", 1),
    "host-with-a-path": _post(_CL, body=HIDDEN).replace(b"host: localhost", b"host: localhost/x", 1),
    "host-with-user": _post(_CL, body=HIDDEN).replace(b"host: localhost", b"host: localhost@evil.example", 1),
    # Request lines
    "version-1.2": _post(_CL, body=HIDDEN, version=b"1.2"),
    "version-2.0": _post(_CL, body=HIDDEN, version=b"2.0"),
    "version-0.9": b"GET {shown}\r\n" + HIDDEN,
    "version-in-lower-case": _post(_CL, body=HIDDEN).replace(b"HTTP/1.1", b"http/1.1", 1),
    "method-in-lower-case": _post(_CL, body=HIDDEN).replace(b"POST", b"post", 1),
    "method-unknown": _post(_CL, body=HIDDEN).replace(b"POST", b"BREW", 1),
    "request-line-with-two-spaces": _post(_CL, body=HIDDEN).replace(b"POST ", b"POST  ", 1),
    "request-line-with-tabs": _post(_CL, body=HIDDEN).replace(b"POST ", b"POST\t", 1),
    "path-with-space": _post(_CL, body=HIDDEN).replace(b"{shown}", b"{shown} x", 1),
    "path-with-nul": _post(_CL, body=HIDDEN).replace(b"{shown}", b"{shown}\x00", 1),
    "connect": b"CONNECT localhost:1 HTTP/1.1\r\nhost: localhost:1\r\n\r\n" + HIDDEN,
    # Upgrades
    "websocket-refused": b"GET /refused HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + HIDDEN,
    "websocket-of-version-9": b"GET {shown} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 9\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + HIDDEN,
    "upgrade-to-h2c": b"GET {shown} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\ncontent-length: %d\r\n\r\n" % _N + HIDDEN,
    # As it should be
    "content-length": _post(_CL, body=HIDDEN),
    "chunked": _post(_TE, body=_chunk(HIDDEN, b"%x" % _N) + _CHUNKED_END),
    "chunked-in-capitals": _post(b"Transfer-Encoding: CHUNKED", body=_chunk(HIDDEN, b"%X" % _N) + _CHUNKED_END),
    "chunk-extension": _post(_TE, body=_chunk(HIDDEN, b"%x;a=b" % _N) + _CHUNKED_END),
    "trailers": _post(_TE, body=_chunk(HIDDEN, b"%x" % _N) + b"0\r\nx-forwarded-for: 1.2.3.4\r\ncookie: a=b\r\n\r\n"),
    "get-with-a-body": _post(_CL, body=HIDDEN).replace(b"POST", b"GET", 1),
}
