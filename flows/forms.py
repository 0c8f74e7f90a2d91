"""What a form in Prefect offers to choose from: known only where it is deployed, so no type says it."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

OFFERED = "x-offered"


@dataclass(frozen=True)
class Offered:
    """The name of what there is to choose from at the moment of a deploy; a run takes whatever its flow takes."""

    what: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), OFFERED: self.what}


Symbol = Annotated[str, Offered("symbols")]
Timeframe = Annotated[str, Offered("timeframes")]
StrategyName = Annotated[str, Offered("strategies")]
PromptVersion = Annotated[str, Offered("prompts")]
