"""A prompt of `llm:single` that shows all it is given."""

from tasks.core.decision.llm.prompt import parse_prompt

PROMPT = parse_prompt(
    "---\nrole: single\nversion: v001\nschema: decision\n"
    "variables: [pair, as_of, reasons, allowed_actions, max_trade_risk_pct, max_total_risk_pct, snapshot]\n"
    "temperature: 0\nseed: 7\nmax_tokens: 900\n---\n## system\nYou trade.\n\n## user\n"
    "$pair|$as_of|$reasons|$allowed_actions|$max_trade_risk_pct|$max_total_risk_pct|$snapshot\n",
    "single/v001",
)
