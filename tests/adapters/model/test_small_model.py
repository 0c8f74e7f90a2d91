"""The small model of `make model`, a real one behind a real server: it is asked, and keeps to the schema."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tasks.adapters.model.litellm_model import LiteLLMModel
from tasks.core.decision.actions import object_schema
from tasks.core.decision.llm.roles import Analysis
from tasks.core.ports import ModelRequest
from tasks.core.types.decision import PromptRef

ROOT = Path(__file__).resolve().parents[3]
PYTHON = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quarterdeck-model" / "bin" / "python"
MESSAGES = [{"role": "user", "content": "Is the trend up? Answer with JSON: signal, risk_level, confidence."}]


@pytest.mark.skipif(not PYTHON.exists(), reason="its wheels are not in the lock: `make model` brings them")
@pytest.mark.slow
async def test_the_small_model_is_asked_and_keeps_to_the_words_of_the_schema():
    command = [PYTHON, ROOT / "infra" / "small_model.py", "--port", "0", "--threads", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        settings = dict(re.findall(r"QUARTERDECK_(\w+)=(\S+)", server.stdout.readline()))
        model = LiteLLMModel((settings["MODEL"],), settings["MODEL_BASE_URL"], 60, 120)
        prompt = PromptRef(name="technical", version="v001", sha256="", max_tokens=150)
        schema = object_schema(Analysis)
        short = {name: schema["properties"][name] for name in ("signal", "risk_level", "confidence")}
        schema = schema | {"properties": short, "required": list(short)}
        call = await model.ask(ModelRequest("technical", prompt, MESSAGES, schema))
    finally:
        server.kill()
        server.wait()
    said = json.loads(call.raw_reply)
    assert said["signal"] in ("bullish", "bearish", "neutral", None)
    assert said["risk_level"] in ("low", "medium", "high", None)
    assert call.tokens_in > 0
