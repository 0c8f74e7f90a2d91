"""What a person may ask for, from a form in Prefect; the commands of the same names do the same."""

from typing import Annotated, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows import promote as promotion
from flows.clock import run_name, to_the_end
from flows.forms import PromptVersion, Symbol
from tasks import by_hand
from tasks.core.pages import inert
from tasks.core.types import Json


@flow(name="close", flow_run_name=run_name)
async def close(symbol: Symbol, share: Annotated[float, Field(gt=0, le=100)] = 100) -> Json:
    """Close our position in a symbol at market, or a share of it.

    Args:
        symbol: whose position; only what is ours is closed.
        share: percent of the position.
    """
    return await to_the_end(by_hand.close(symbol, str(share), by_hand.asker()))


@flow(name="move-stop", flow_run_name=run_name)
async def move_stop(symbol: Symbol, to: str = by_hand.BREAKEVEN) -> Json:
    """Move the stop of our position; it may only tighten.

    Args:
        symbol: whose position.
        to: a price in quote, or breakeven.
    """
    return await to_the_end(by_hand.move_stop(symbol, to, by_hand.asker()))


@flow(name="pause", flow_run_name=run_name)
async def pause(symbol: Symbol, minutes: Annotated[int, Field(gt=0, le=by_hand.LONGEST)] = 60) -> Json:
    """Allow no new entries in a symbol for a while; exits and protection go on.

    Args:
        symbol: where nothing is to be entered.
        minutes: for how long from now.
    """
    return await to_the_end(by_hand.pause(symbol, minutes, by_hand.asker()))


@flow(name="halt", flow_run_name=run_name)
def halt(reason: str = "by hand", flatten: bool = False) -> Json:
    """Stop all new entries until somebody resumes; exits and protection go on.

    Args:
        reason: what alerts and the report say.
        flatten: close our positions too, at the next run of protect.
    """
    return by_hand.halt(reason, flatten, by_hand.asker())


@flow(name="resume", flow_run_name=run_name)
def resume() -> Json:
    """Lift every halt; a file or variable that still says halt is named, and halts again."""
    return by_hand.resume(by_hand.asker())


@flow(name="promote", flow_run_name=run_name)
def promote(
    prompt: PromptVersion,
    alias: Literal["champion", "challenger"] = "challenger",
    evidence: str = "",
    override_reason: str = "",
) -> Json:
    """Let an alias name a prompt version; a champion needs evidence.

    Args:
        prompt: the version, as role@version.
        alias: the champion decides, a challenger is asked beside it.
        evidence: a masked comparison with the version in use, by the id of its run in MLflow.
        override_reason: why you promote whatever the evidence says; empty lets the evidence decide.
    """
    role, _, version = prompt.partition("@")
    move = promotion.promote(role, version, alias, evidence, override_reason.strip(), by_hand.asker())
    lines = [f"# {inert.markdown(prompt)}: {move.kind}", *(f"- {inert.markdown(str(each))}" for each in move.criteria)]
    create_markdown_artifact(key="promotion", markdown="\n".join(lines), description=f"{prompt} {move.kind}")
    promotion.explain_refusal(move)
    return move.model_dump(mode="json")
