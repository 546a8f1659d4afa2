"""An S3 server of a simulated fleet: python -m pipeline.benchmark.fake_s3 DRIVES FRAMES.

It answers the requests of planning: pages of the listings of fleet/ and of fleet/drive-000042/, and any frame, which
are all equal. A page takes almost no time, so that the client's time can be measured on the same machine; a server with
real objects needs 17 us per name or more. It prints its port on the first line.
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
_MARK = "\0"  # placeholder of a drive's prefix in pages that are equal for all drives


class MadeUpStore:
    """The responses for a number of drives with a number of frames each."""

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
        """GetObject, complete or a range."""
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
