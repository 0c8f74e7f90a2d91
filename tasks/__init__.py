"""The work: thin Prefect tasks over a pure core and one adapter per vendor."""
