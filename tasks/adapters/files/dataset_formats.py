"""In what forms a dataset is written; cheap to import, so that a command can name them."""

FOR_MODELS = ("sft", "dpo", "kto", "grpo")  # JSON lines of questions and replies, as TRL's trainers take them
FORMATS = ("parquet", "minari", "d3rlpy", *FOR_MODELS)  # the first is always written
