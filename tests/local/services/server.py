"""Serves on the port that its environment names, by a child."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys

if sys.argv[1:] == ["child"]:
    handler = http.server.SimpleHTTPRequestHandler
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["LIGHT_PORT"])), handler).serve_forever()
else:
    sys.exit(subprocess.call([sys.executable, __file__, "child"]))
