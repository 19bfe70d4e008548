"""llama.cpp's server as PyPI's xllamacpp has it built in, under the flags that `deploy` prints.

For machines on which building llama.cpp takes too long. In an environment of its own, without ours:

    pip install xllamacpp==2026.10.11549
    python -m benchmarks.engines.llama_cpp \\
        --server="…/bin/python benchmarks/engines/embedded_llama_server.py" \\
        --target=runs/smollm2 --draft=runs/draft
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import threading
from typing import Any


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", dest="model", required=True)
    parser.add_argument("-md", dest="draft", required=True)
    parser.add_argument("--spec-type", choices=["draft-simple"], required=True)
    parser.add_argument("--spec-draft-n-max", type=int, required=True)
    parser.add_argument("-c", dest="context", type=int, required=True)
    parser.add_argument("--temp", type=float, required=True)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    flags = parser.parse_args()
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = flags.model
    draft = params.speculative.draft
    draft.mparams.path, draft.n_max = flags.draft, flags.spec_draft_n_max
    params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    params.n_ctx, params.sampling.temp = flags.context, flags.temp
    params.endpoint_metrics, params.endpoint_props = flags.metrics, True
    params.hostnames, params.port = [flags.host], flags.port
    threads = int(os.environ.get("LLAMA_ARG_THREADS", "0"))
    if threads:
        params.cpuparams.n_threads = draft.cpuparams.n_threads = threads
    server = xllamacpp.Server(params)
    print(f"xllamacpp {importlib.metadata.version('xllamacpp')}: {server.listening_address}", flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    os._exit(0)  # its threads would go on


if __name__ == "__main__":
    main()
