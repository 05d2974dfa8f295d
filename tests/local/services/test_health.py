"""A service is healthy when it can do its work, not when it merely answers."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import pytest

from pipeline.local.services import services_status
from pipeline.spec.settings import Settings


@pytest.mark.parametrize(
    ("num_nodes", "detail"), [(0, "no node has joined"), (1, "healthy"), (None, "KeyError: 'data'")]
)
def test_a_cluster_without_a_node_is_not_healthy(tmp_path: Path, num_nodes: int | None, detail: str) -> None:
    class Dashboard(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = {} if num_nodes is None else {"data": {"result": {"num_filtered": num_nodes}}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        dashboard = f"http://127.0.0.1:{server.server_port}"
        settings = Settings.of({"WINDROW_HOME": str(tmp_path), "WINDROW_RAY_DASHBOARD": dashboard})
        (ray,) = (status for status in services_status(settings) if status.name == "ray")
        server.shutdown()
    assert (ray.healthy, ray.detail) == (num_nodes == 1, detail)
