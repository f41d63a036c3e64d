"""What a user sees of a library's own messages."""

import subprocess
import sys

from runs import environment

DAMAGED = """
import rasterio
from cluemap.runtime.messages import show_messages
show_messages()
try:
    rasterio.open("damaged.tif")
except rasterio.errors.RasterioIOError:
    pass
"""


def test_gdal_s_report_of_an_error_that_is_raised_anyway_is_not_shown(tmp_path):
    (tmp_path / "damaged.tif").write_bytes(b"II*\0\x08\0\0\0" + bytes(range(256)))
    done = subprocess.run(
        [sys.executable, "-c", DAMAGED], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
