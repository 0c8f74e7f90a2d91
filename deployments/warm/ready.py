"""What each run would do anew, done as the warm daemon imports this: what is forked from it has the result."""

from prefect.client.schemas.objects import FlowRun

from tasks.adapters import certificates

certificates.trusted()
FlowRun.model_rebuild()  # Prefect builds a class when it is first used
