"""The pure core: what the system decides, free of clock, network, environment and Prefect."""
