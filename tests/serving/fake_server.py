"""Stands in for vLLM's server: python fake_server.py PORT WHAT. It has a child of its own, as vLLM has.

WHAT: ``ready`` serves; ``stubborn`` serves, and neither it nor its child heeds SIGTERM; ``stuck`` never serves and does
not heed SIGTERM while it waits for its child; anything else is printed as its log before it ends with exit code 1.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

METRICS = """\
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:prompt_tokens_total{engine="0"} 100.0
vllm:prompt_tokens_cached_total{engine="0"} 45.0
vllm:prefix_cache_queries_total{engine="0"} 90.0
"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/die":
            print(
                "(EngineCore pid=7) ERROR 11-22 23:13:12 [core.py:1] ValueError: the engine broke", flush=True
            )
            os._exit(1)
        body = METRICS.encode() if self.path == "/metrics" else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    port, what = int(sys.argv[1]), sys.argv[2]
    if what in ("stubborn", "stuck"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleeper = "import time; time.sleep(600)"
    if what == "stubborn":
        sleeper = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {sleeper}"
    child = subprocess.Popen([sys.executable, "-c", sleeper])
    print("(APIServer pid=1) INFO 11-22 23:10:08 [core.py:1] Initializing a V1 LLM engine", flush=True)
    if what in ("ready", "stubborn"):
        ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
    elif what == "stuck":
        child.wait()
    else:
        print(what, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
