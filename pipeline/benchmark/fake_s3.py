"""An S3 server of a fleet that nobody has: python -m pipeline.benchmark.fake_s3 DRIVES FRAMES.

Answers what a plan asks for: listings of fleet/ and of fleet/drive-000042/ in pages, and any frame, all alike. What it
spends on a page is next to nothing, so that a client's own time shows where both are on one machine; a server that
keeps real objects spends 17 us a name and more. Says its port on the first line.
"""

from __future__ import annotations

import functools
import hashlib
import io
import socket
import sys

from aiohttp import web
from PIL import Image

BUCKET, PREFIX, WIDTH, HEIGHT = "made-up", "fleet/", 1242, 375
_MARK = "\0"  # stands for a drive's prefix in pages that were made for all of them


class MadeUpStore:
    """The answers for so many drives of so many frames."""

    def __init__(self, drives: int, frames: int) -> None:
        picture = io.BytesIO()
        Image.new("L", (WIDTH, HEIGHT), 128).save(picture, "PNG")
        self._frame = picture.getvalue()
        self._drives = [
            f"<CommonPrefixes><Prefix>{PREFIX}drive-{n:06d}/</Prefix></CommonPrefixes>" for n in range(drives)
        ]
        etags = (hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest() for n in range(frames))
        self._files = [
            f"<Contents><Key>{_MARK}{n:06d}.png</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&#34;{etag}&#34;</ETag><Size>{800_000 + 7919 * n % 200_000}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for n, etag in enumerate(etags)
        ]
        self._page = functools.lru_cache(maxsize=None)(self._made_page)

    def _made_page(self, of_drives: bool, start: int, count: int) -> bytes:
        rows = self._drives if of_drives else self._files
        more = f"<NextContinuationToken>{start + count}</NextContinuationToken>" if start + count < len(rows) else ""
        head = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}<EncodingType>url</EncodingType>"
        page = "".join(rows[start : start + count])
        return f"<ListBucketResult><Name>{BUCKET}</Name>{head}{page}</ListBucketResult>".encode()

    async def bucket(self, request: web.Request) -> web.Response:
        """ListObjectsV2 of one folder."""
        prefix = request.query.get("prefix", "")
        start, count = int(request.query.get("continuation-token", 0)), int(request.query.get("max-keys", 1000))
        if not prefix.startswith(PREFIX):
            return web.Response(body=self._page(True, len(self._drives), 1), content_type="application/xml")
        page = self._page(prefix == PREFIX, start, count).replace(_MARK.encode(), prefix.encode())
        return web.Response(body=page, content_type="application/xml")

    async def frame(self, request: web.Request) -> web.Response:
        """GetObject, whole or a range of it."""
        part = self._frame[request.http_range]
        return web.Response(body=part, status=206 if "Range" in request.headers else 200, content_type="image/png")


def main(drives: int, frames: int) -> None:
    """Serve until the process is ended."""
    store = MadeUpStore(drives, frames)
    app = web.Application()
    app.router.add_get(f"/{BUCKET}", store.bucket)
    app.router.add_get(f"/{BUCKET}/{PREFIX}{{drive}}/{{frame}}", store.frame)
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    web.run_app(app, sock=server, print=None, access_log=None, handle_signals=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
