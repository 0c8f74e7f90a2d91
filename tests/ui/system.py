"""A whole Quarterdeck for a browser to look at: `up` with its own HOME and ports, a scripted model, a comparison."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from free_ports import free_port
from model_server import ModelServer, Reply

ROOT = Path(__file__).resolve().parents[2]
SYMBOL = "BTC/USDT:USDT"
QUESTION = "is the trend still up?"
SECOND = "Open nothing while the 1h and 4h stacks disagree."  # what v004 of the prompt adds
ENTRY = {
    "action": "OPEN_LONG", "size_pct": 15, "entry": {"type": "market", "offset_bps": 0}, "stop_atr": 1.5, "tp_atr": 3,
    "followups": ["MOVE_STOP: breakeven on +1.0R"], "confidence": 0.62, "comment": "pullback held, trend resumes",
    "reasoning": "1h and 4h trend up, the pullback held VWAP, and volume came back on the reclaim.",
    "key_factors": ["1h 20>50>200", "15m closed back above VWAP20"], "risk_assessment": "Wrong below the swept low.",
}  # fmt: skip
HOLD = {
    "action": "HOLD", "confidence": 0.6, "comment": "the higher timeframes disagree",
    "reasoning": "1h points up and 4h down: no entry.", "key_factors": ["1h against 4h"], "risk_assessment": "None.",
}  # fmt: skip


@dataclass(frozen=True)
class System:
    """Where everything is."""

    prefect: str
    mlflow: str
    env: dict[str, str]
    folder: Path
    opened: tuple[str, ...] = ()  # the addresses that `up` printed

    def quarterdeck(self, *arguments: str, cwd: Path = ROOT) -> str:
        """Run a command of ours against this system; returns its stdout."""
        command = [sys.executable, "-m", "deployments.cli", *arguments]
        done = subprocess.run(command, cwd=cwd, env=self.env, capture_output=True, text=True, timeout=500, check=False)
        if done.returncode:
            raise RuntimeError(f"quarterdeck {' '.join(arguments)}: {done.returncode}\n{done.stderr[-3000:]}")
        return done.stdout


def answer(request: dict[str, Any]) -> Reply:
    """Reply as a model that opens a long when asked by hand, and in the comparison; there not always under v004."""
    text = json.dumps(request["messages"])
    symbol = text.partition("Pair: ")[2].partition("\\n")[0]
    by_second = SECOND in text and hashlib.sha256(text.encode()).digest()[0] % 2
    held = by_second or not (QUESTION in text or "As of: 2025" in text)
    return Reply(json.dumps({"symbol": symbol, **(HOLD if held else ENTRY)}), tokens_in=1900, tokens_out=150)


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[System]:
    """Start everything with these settings and stop it again."""
    with ModelServer(default=answer) as model:
        env = _environment(folder, model.url) | settings
        prefect = env["QUARTERDECK_PREFECT_API_URL"].removesuffix("/api")
        system = System(prefect, env["QUARTERDECK_MLFLOW_URL"], env, folder)
        try:
            said = dict(line.split(maxsplit=1) for line in system.quarterdeck("up", "--detach").splitlines())
            yield replace(system, opened=(said["prefect"], said["mlflow"]))
        finally:
            system.quarterdeck("down")


def _environment(folder: Path, model_url: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("QUARTERDECK_", "PREFECT_"))}
    return own | {
        "QUARTERDECK_HOME": str(folder / "home"),
        "QUARTERDECK_TOML": str(folder / "none.toml"),
        "QUARTERDECK_SANDBOX_URL": f"http://127.0.0.1:{free_port()}",
        "QUARTERDECK_PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "QUARTERDECK_MLFLOW_URL": f"http://127.0.0.1:{free_port()}",
        "QUARTERDECK_SYMBOLS": SYMBOL,
        "QUARTERDECK_LIMITS__MAX_LATENESS_S": "3600",  # a bar of the past is asked about, see `earlier_close`
        "QUARTERDECK_MODEL": "openai/scripted",
        "QUARTERDECK_SHADOW": "llm:single@v001,rules",
        "QUARTERDECK_MODEL_BASE_URL": model_url,
    }


def earlier_close(system: System) -> str:
    """Return a close that nothing was decided at: at most one decision is made per symbol and bar."""
    first = json.loads(system.quarterdeck("status", "--json"))["last_cycle"]["as_of"]
    return (datetime.fromisoformat(first) - timedelta(minutes=10)).isoformat()


def compare_prompts(system: System) -> dict[str, Any]:
    """Copy the checkout, add a version of a prompt, and compare it with the one in use as the tutorial does."""
    checkout = system.folder / "checkout"
    for part in ("flows", "tasks", "deployments", "infra", "prompts"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    first = (checkout / "prompts" / "single" / "v003.md").read_text()
    second = first.replace("version: v003", "version: v004").replace(
        "for this call agree.", f"for this call agree. {SECOND}"
    )
    (checkout / "prompts" / "single" / "v004.md").write_text(second)
    said = system.quarterdeck(
        "compare", "--candles", str(_candles(system.folder)), "--symbol", SYMBOL, "--decider", "llm:single@v003",
        "--decider", "llm:single@v004", "--start", "2025-01-12", "--end", "2025-01-14", "--seeds", "50",
        "--max-cost", "20", "--title", "single: v003 against v004", "--json", cwd=checkout,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(said)
    return found


def _candles(folder: Path) -> Path:
    """Write fourteen days of a random walk in 5m candles."""
    rng, n = np.random.default_rng(11), 14 * 288
    close = np.round(60_000 * np.exp(np.cumsum(rng.normal(0, 1.2e-3, n))), 1)
    start = np.r_[60_000.0, close[:-1]]
    frame = pd.DataFrame(
        {
            "ts": 1_735_689_600_000 + np.arange(n) * 300_000, "open": start, "high": np.maximum(start, close) + 20,
            "low": np.minimum(start, close) - 20, "close": close, "volume": rng.lognormal(3, 0.5, n),
        }
    )  # fmt: skip
    frame.to_parquet(folder / "candles.parquet")
    return folder / "candles.parquet"
