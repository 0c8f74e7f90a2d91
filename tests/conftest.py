"""No test reaches a model or a network: only servers that the tests start on this machine."""

import os
import tempfile

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["GX_ANALYTICS_ENABLED"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["QUARTERDECK_NO_MODEL_CALLS"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["QUARTERDECK_HOME"] = tempfile.mkdtemp(prefix="quarterdeck-tests-")
os.environ["QUARTERDECK_MLFLOW_URL"] = ""
