"""The replay's account to learn on: importing this registers the environment `Quarterdeck-v0` with gymnasium."""

import gymnasium

gymnasium.register("Quarterdeck-v0", entry_point="tasks.adapters.rl.environment:TradingEnv")
