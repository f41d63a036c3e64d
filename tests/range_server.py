"""A folder served with range requests, as object stores serve it: a process of its own, as GDAL may hold the
interpreter of the one that asks."""

import contextlib
import functools
import http.server
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Writes what was asked for, a line a request, to its standard output."""

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        content, wanted = file.read_bytes(), self.headers.get("Range")
        print(wanted or "whole", flush=True)
        first, last = 0, len(content) - 1
        if wanted:
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(stop or last), last)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[first : last + 1])

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path, log: Path) -> Iterator[str]:
    """The address of `folder` on this machine's loopback; requests for content go to the file `log`."""
    with (
        log.open("w") as asked,
        subprocess.Popen(
            [sys.executable, __file__, str(folder)], stdout=asked, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            assert process.stderr is not None
            yield f"http://127.0.0.1:{int(process.stderr.readline())}"
        finally:
            process.terminate()


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=sys.argv[1]))
    print(server.server_address[1], file=sys.stderr, flush=True)
    server.serve_forever()
